// Package srs rewrites the sender of forwarded mail so that it passes SPF at the
// next hop, and turns the addresses that bounces come back to into the original
// ones (the Sender Rewriting Scheme, as described by Meng Weng Wong and used by
// several mail servers):
//
//	SRS0=HASH=TT=origin.example=user@forwarder.example
//	SRS1=HASH=forwarder.example==HASH=TT=origin.example=user@second.example
//
// TT is the day, modulo 1024, in two base32 digits. HASH is 8 base32 digits of an
// HMAC-SHA256 over the rest, compared without regard to case because some servers
// change that. Addresses with the 4-character hash of OpenSMTPD 7, the start of a
// SHA-1 sum in base64, are still decoded, so that bounces of mail sent before an
// upgrade arrive.
package srs

import (
	"crypto/hmac"
	"crypto/sha1" // for addresses of OpenSMTPD 7
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

const (
	maxAddress  = 255 // bytes of a rewritten address; longer ones stay as they are
	hashLen     = 8   // characters of our hash
	oldHashLen  = 4
	day         = 24 * time.Hour
	stampPeriod = 1024 // days
)

// Errors of Reverse.
var (
	ErrMalformed = errors.New("malformed SRS address")
	ErrHash      = errors.New("wrong hash in SRS address")
	ErrExpired   = errors.New("SRS address is too old")
)

// Rewriter rewrites with one set of keys. It may be used from many goroutines.
type Rewriter struct {
	keys    [][]byte
	ttlDays int
	now     func() time.Time
}

// New returns a Rewriter that makes addresses with key and accepts those made with
// key or backup, when that is not empty, for ttlDays days. now tells the time; nil
// means time.Now.
func New(key, backup string, ttlDays int, now func() time.Time) (*Rewriter, error) {
	if key == "" {
		return nil, errors.New("srs: empty key")
	}
	if ttlDays < 1 || ttlDays >= stampPeriod-1 {
		return nil, errors.New("srs: the lifetime must be from 1 to 1022 days")
	}
	if now == nil {
		now = time.Now
	}
	r := &Rewriter{keys: [][]byte{[]byte(key)}, ttlDays: ttlDays, now: now}
	if backup != "" {
		r.keys = append(r.keys, []byte(backup))
	}
	return r, nil
}

// Looks tells whether p has the form of a rewritten address.
func Looks(p smtp.Path) bool { return prefix(p.Local) != "" && p.Domain != "" }

// prefix returns "SRS0" or "SRS1" when local begins with it and a separator.
func prefix(local string) string {
	if len(local) < 5 || strings.IndexByte("=+-", local[4]) < 0 {
		return ""
	}
	switch p := strings.ToUpper(local[:4]); p {
	case "SRS0", "SRS1":
		return p
	}
	return ""
}

// Forward returns the sender to use when mail of sender is forwarded by domain.
// The null sender, a sender without domain, and one whose rewritten form would
// exceed 255 bytes are returned unchanged.
func (r *Rewriter) Forward(sender smtp.Path, domain string) smtp.Path {
	if sender.IsNull() || sender.Domain == "" || domain == "" {
		return sender
	}
	var kind, rest string
	switch prefix(sender.Local) {
	case "SRS0":
		kind, rest = "SRS1=", sender.Domain+"="+sender.Local[4:]
	case "SRS1":
		// SRS1=HASH=first.example==…: only the hash is ours to replace.
		_, tail, ok := strings.Cut(sender.Local[5:], "=")
		if !ok {
			return sender
		}
		kind, rest = "SRS1=", tail
	default:
		kind, rest = "SRS0=", r.stamp()+"="+sender.Domain+"="+sender.Local
	}
	p := smtp.Path{Local: kind + hash(r.keys[0], rest, domain) + "=" + rest, Domain: domain}
	if len(p.Local)+1+len(p.Domain) > maxAddress {
		return sender
	}
	return p
}

// Reverse returns the address that p was made from: the original sender for SRS0,
// the SRS0 address at the first forwarder for SRS1.
func (r *Rewriter) Reverse(p smtp.Path) (smtp.Path, error) {
	kind := prefix(p.Local)
	if kind == "" {
		return smtp.Path{}, ErrMalformed
	}
	sum, rest, ok := strings.Cut(p.Local[5:], "=")
	if !ok {
		return smtp.Path{}, ErrMalformed
	}
	if !r.verify(sum, rest, p.Domain) {
		return smtp.Path{}, ErrHash
	}
	if kind == "SRS1" {
		host, local, ok := strings.Cut(rest, "=")
		if !ok || !validDomain(host) || len(local) < 2 || prefix("SRS0"+local) == "" {
			return smtp.Path{}, ErrMalformed
		}
		return smtp.Path{Local: "SRS0" + local, Domain: host}, nil
	}
	f := strings.SplitN(rest, "=", 3)
	if len(f) != 3 || !validDomain(f[1]) || f[2] == "" {
		return smtp.Path{}, ErrMalformed
	}
	age, ok := r.age(f[0])
	if !ok {
		return smtp.Path{}, ErrMalformed
	}
	if age > r.ttlDays && age < stampPeriod-1 { // 1023: from a clock a day ahead
		return smtp.Path{}, ErrExpired
	}
	return smtp.Path{Local: f[2], Domain: f[1]}, nil
}

// validDomain is a guard on what an authentic address held; it need not be exact.
func validDomain(s string) bool {
	return s != "" && !strings.ContainsAny(s, "@ <>\"\r\n\x00")
}

// verify compares the hash with what each key gives, in both forms.
func (r *Rewriter) verify(sum, rest, domain string) bool {
	ok := 0
	for _, k := range r.keys {
		switch len(sum) {
		case hashLen:
			ok |= subtle.ConstantTimeCompare([]byte(strings.ToUpper(sum)), []byte(hash(k, rest, domain)))
		case oldHashLen:
			ok |= subtle.ConstantTimeCompare([]byte(sum), []byte(oldHash(k, rest, domain)))
		}
	}
	return ok == 1
}

// hash is the keyed hash of what follows it.
func hash(key []byte, rest, domain string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(strings.ToLower(rest + "@" + domain)))
	return base32.StdEncoding.EncodeToString(m.Sum(nil))[:hashLen]
}

// oldHash is the hash of OpenSMTPD 7.
func oldHash(key []byte, rest, domain string) string {
	m := sha1.New()
	m.Write(key)
	m.Write([]byte(rest + "@" + domain))
	return base64.URLEncoding.EncodeToString(m.Sum(nil))[:oldHashLen]
}

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// today is the number of the day, modulo 1024.
func (r *Rewriter) today() int { return int(r.now().Unix() / int64(day/time.Second) % stampPeriod) }

// stamp is today in two base32 digits (RFC 4648 section 6).
func (r *Rewriter) stamp() string {
	t := r.today()
	return string([]byte{digits[t>>5], digits[t&31]})
}

// age returns how many days ago a stamp was made, modulo 1024.
func (r *Rewriter) age(stamp string) (int, bool) {
	if len(stamp) != 2 {
		return 0, false
	}
	stamp = strings.ToUpper(stamp)
	hi, lo := strings.IndexByte(digits, stamp[0]), strings.IndexByte(digits, stamp[1])
	if hi < 0 || lo < 0 {
		return 0, false
	}
	return (r.today() - (hi<<5 | lo) + stampPeriod) % stampPeriod, true
}
