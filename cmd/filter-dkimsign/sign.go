package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/opensmtpd/opensmtpd/filter"
)

// maxKeyFile bounds a file with a key, in bytes.
const maxKeyFile = 64 << 10

// minRSA is the smallest RSA key in bits that verifiers take (RFC 8301 section 3.2).
const minRSA = 1024

// key signs, and has its public half in the DNS under a selector.
type key struct {
	selector string
	signer   crypto.Signer
}

// options say how messages are signed.
type options struct {
	domains []string // the first is for senders of other domains
	keys    []key    // a signature is made with each
	header  dkim.Canonicalization
	body    dkim.Canonicalization
	headers []string // names of signed fields
	expire  time.Duration
	now     func() time.Time // nil: time.Now
}

// fields are signed when they are there (RFC 6376 section 5.4.1).
func fields() []string {
	return []string{
		"From", "Reply-To", "Subject", "Date", "To", "Cc", "Resent-Date", "Resent-From", "Resent-To", "Resent-Cc",
		"In-Reply-To", "References", "List-Id", "List-Help", "List-Unsubscribe", "List-Subscribe", "List-Post",
		"List-Owner", "List-Archive", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	}
}

func (o *options) setCanonicalization(s string) error {
	header, body, two := strings.Cut(s, "/")
	if !two {
		body = "simple" // RFC 6376 section 3.5
	}
	for _, c := range []string{header, body} {
		if c != "simple" && c != "relaxed" {
			return fmt.Errorf("-c %q: %q is neither simple nor relaxed", s, c)
		}
	}
	o.header, o.body = dkim.Canonicalization(header), dkim.Canonicalization(body)
	return nil
}

// readKeys reads a key for each selector.
func (o *options) readKeys(files, selectors []string, algorithm string) error {
	if len(files) == 0 || len(files) != len(selectors) {
		return fmt.Errorf("%d keys (-k) and %d selectors (-s): give at least one, and one of each", len(files), len(selectors))
	}
	for i, file := range files {
		signer, err := readKey(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if _, isRSA := signer.(*rsa.PrivateKey); algorithm != "" && algorithm != map[bool]string{true: "rsa-sha256", false: "ed25519-sha256"}[isRSA] {
			return fmt.Errorf("%s is no key for %s", file, algorithm)
		}
		o.keys = append(o.keys, key{selectors[i], signer})
	}
	return nil
}

// readKey reads an RSA or Ed25519 key in PEM, PKCS #1 or #8.
func readKey(file string) (crypto.Signer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not in PEM")
	}
	var parsed any
	if parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return nil, errors.New("neither a PKCS #8 nor a PKCS #1 private key")
		}
	}
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSA {
			return nil, fmt.Errorf("an RSA key of %d bits; verifiers take %d or more", k.N.BitLen(), minRSA)
		}
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("a key of type %T; DKIM has RSA and Ed25519", parsed)
}

// check finds what would make each signature fail.
func (o *options) check() error {
	if len(o.domains) == 0 {
		return errors.New("no domain is given (-d)")
	}
	if o.headers == nil {
		o.headers = fields()
	}
	if !slices.ContainsFunc(o.headers, func(h string) bool { return strings.EqualFold(h, "From") }) {
		return errors.New("the fields to sign (-h) must have From among them")
	}
	return nil
}

// domain returns the domain to sign for: that of the author, or the longest given one
// that it is below, or the first.
func (o *options) domain(from []string) string {
	if len(from) != 1 {
		return o.domains[0]
	}
	author, err := mail.ParseAddress(from[0])
	if err != nil {
		return o.domains[0]
	}
	name := strings.ToLower(author.Address[strings.LastIndexByte(author.Address, '@')+1:])
	best := ""
	for _, d := range o.domains {
		if l := strings.ToLower(d); (name == l || strings.HasSuffix(name, "."+l)) && len(d) > len(best) {
			best = d
		}
	}
	if best == "" {
		best = o.domains[0]
	}
	return best
}

// sign puts a signature for each key in front of a message. A message without a From
// field cannot be signed and goes on as it is.
func (o *options) sign(s *filter.Session, m *filter.Message) filter.Verdict {
	from := m.Values("From")
	if len(from) == 0 {
		s.Logf("not signed: the message has no From field")
		return filter.Proceed()
	}
	now := time.Now
	if o.now != nil {
		now = o.now
	}
	for i := len(o.keys) - 1; i >= 0; i-- {
		k := o.keys[i]
		so := &dkim.SignOptions{
			Domain: o.domain(from), Selector: k.selector, Signer: k.signer,
			HeaderCanonicalization: o.header, BodyCanonicalization: o.body, HeaderKeys: o.headers,
		}
		if o.expire > 0 {
			so.Expiration = now().Add(o.expire)
		}
		value, err := signature(so, m.Reader())
		if err != nil {
			s.Logf("cannot sign for %s with selector %s: %v", so.Domain, k.selector, err)
			return filter.Reject(451, "4.3.0", "The message cannot be signed now")
		}
		m.Prepend("DKIM-Signature", value)
	}
	return filter.Proceed()
}

// signature returns the value of a DKIM-Signature field.
func signature(o *dkim.SignOptions, r io.Reader) (string, error) {
	signer, err := dkim.NewSigner(o)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(signer, r)
	if cerr := signer.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	_, value, _ := strings.Cut(signer.Signature(), ": ")
	return strings.TrimRight(value, "\r\n"), nil
}
