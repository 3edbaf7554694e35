package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-msgauth/authres"
)

const (
	maxLine = 1 << 20 // bytes of a line of a body
	maxSets = 50      // instances of ARC (RFC 8617 section 4.2.1)
	minRSA  = 1024    // bits of a key (RFC 8301 section 3.2)
	maxRSA  = 8192    // bits of a key; the time for one grows by the square
)

// arcResult is the state of a message's chain of seals.
type arcResult struct {
	value  authres.ResultValue // none, pass or fail
	sets   []arcSet            // when it passed; the newest is the last
	reason error
}

// arcSet is one instance: what a server found, its signature and its seal.
type arcSet struct{ results, signature, seal string }

// checkARC validates the chain of a message (RFC 8617 section 5.2): every seal, and
// the newest signature. A chain that is not done when the context ends fails.
func checkARC(ctx context.Context, fields []string, body io.Reader, txt lookup) arcResult {
	sets, err := arcSets(fields)
	switch {
	case err != nil:
		return arcResult{value: authres.ResultFail, reason: err}
	case len(sets) == 0:
		return arcResult{value: authres.ResultNone}
	}
	for i := range sets {
		tags, err := parseTags(fieldValue(sets[i].seal))
		want := "pass"
		if i == 0 {
			want = "none"
		}
		if err == nil && tags["cv"] != want {
			err = fmt.Errorf("seal %d says cv=%s", i+1, tags["cv"])
		}
		if err != nil {
			return arcResult{value: authres.ResultFail, reason: err}
		}
	}
	newest := sets[len(sets)-1]
	if err := verifySignature(newest.signature, newIndex(fields), reader{ctx, body}, txt); err != nil {
		return arcResult{value: authres.ResultFail, reason: fmt.Errorf("signature %d: %w", len(sets), err)}
	}
	for i := len(sets); i > 0; i-- {
		err := ctx.Err()
		if err == nil {
			err = verifySeal(sets[:i], txt)
		}
		if err != nil {
			return arcResult{value: authres.ResultFail, reason: fmt.Errorf("seal %d: %w", i, err)}
		}
	}
	return arcResult{value: authres.ResultPass, sets: sets}
}

// arcSets collects the instances, each of which must be whole and there once.
func arcSets(fields []string) ([]arcSet, error) {
	var sets []arcSet
	found := 0
	for _, f := range fields {
		name := fieldName(f)
		if name != "arc-authentication-results" && name != "arc-message-signature" && name != "arc-seal" {
			continue
		}
		found++
		i, err := instance(name, fieldValue(f))
		if err != nil {
			return nil, err
		}
		for len(sets) < i {
			sets = append(sets, arcSet{})
		}
		place := map[string]*string{
			"arc-authentication-results": &sets[i-1].results, "arc-message-signature": &sets[i-1].signature, "arc-seal": &sets[i-1].seal,
		}[name]
		if *place != "" {
			return nil, fmt.Errorf("%s of instance %d is there twice", name, i)
		}
		*place = f
	}
	if found != 3*len(sets) {
		return nil, errors.New("an instance is not whole")
	}
	return sets, nil
}

func instance(name, value string) (int, error) {
	var text string
	if name == "arc-authentication-results" {
		first, _, _ := strings.Cut(value, ";")
		key, v, _ := strings.Cut(first, "=")
		if strings.TrimSpace(key) == "i" {
			text = strings.TrimSpace(v)
		}
	} else {
		tags, err := parseTags(value)
		if err != nil {
			return 0, err
		}
		text = tags["i"]
	}
	i, err := strconv.Atoi(text)
	if err != nil || i < 1 || i > maxSets {
		return 0, fmt.Errorf("%s: instance %q", name, text)
	}
	return i, nil
}

// verifySeal checks the newest seal of sets, which covers all of them (section 5.1.1).
func verifySeal(sets []arcSet, txt lookup) error {
	seal := sets[len(sets)-1].seal
	tags, err := parseTags(fieldValue(seal))
	if err != nil {
		return err
	}
	if _, ok := tags["h"]; ok {
		return errors.New("a seal has no h=")
	}
	var covered strings.Builder
	for i, s := range sets {
		covered.WriteString(relaxedField(s.results))
		covered.WriteString(relaxedField(s.signature))
		if i < len(sets)-1 {
			covered.WriteString(relaxedField(s.seal))
		}
	}
	covered.WriteString(strings.TrimSuffix(relaxedField(withoutSignature(seal)), "\r\n"))
	return verify(tags, covered.String(), txt)
}

// verifySignature checks an ARC-Message-Signature: the body's hash and the signed
// fields (section 4.1.2; RFC 6376 sections 3.5 and 3.7).
func verifySignature(field string, index fieldIndex, body io.Reader, txt lookup) error {
	tags, err := parseTags(fieldValue(field))
	if err != nil {
		return err
	}
	headerCanon, bodyCanon, two := strings.Cut(tags["c"], "/")
	if headerCanon == "" {
		headerCanon = "simple"
	}
	if !two {
		bodyCanon = "simple"
	}
	canon := map[string]func(string) string{"simple": func(s string) string { return s }, "relaxed": relaxedField}[headerCanon]
	if canon == nil || bodyCanon != "simple" && bodyCanon != "relaxed" {
		return fmt.Errorf("canonicalization %q", tags["c"])
	}
	names := signedNames(tags["h"])
	switch {
	case len(names) > maxNames:
		return errors.New("signature covers too many fields")
	case !slices.Contains(names, "from"):
		return errors.New("signature does not cover From")
	case slices.Contains(names, "arc-seal"):
		return errors.New("signs a seal")
	}
	want, err := base64.StdEncoding.DecodeString(squeeze(tags["bh"]))
	if err != nil {
		return errors.New("bh= is not in base64")
	}
	h := sha256.New()
	if err := hashBody(h, body, bodyCanon == "relaxed", tags["l"]); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(h.Sum(nil), want) != 1 {
		return errors.New("the body was changed")
	}
	var covered strings.Builder
	for _, f := range index.covered(names) {
		covered.WriteString(canon(f))
	}
	covered.WriteString(strings.TrimSuffix(canon(withoutSignature(field)), "\r\n"))
	return verify(tags, covered.String(), txt)
}

// verify checks the signature b= over text with the key that the tags name.
func verify(tags map[string]string, text string, txt lookup) error {
	sig, err := base64.StdEncoding.DecodeString(squeeze(tags["b"]))
	if err != nil || len(sig) == 0 {
		return errors.New("b= is not in base64")
	}
	if tags["s"] == "" || tags["d"] == "" {
		return errors.New("without s= or d=")
	}
	records, err := txt(tags["s"] + "._domainkey." + tags["d"])
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if len(records) == 0 {
		return errors.New("no key")
	}
	record, err := parseTags(records[0])
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	der, err := base64.StdEncoding.DecodeString(squeeze(record["p"]))
	if err != nil || len(der) == 0 {
		return errors.New("key: revoked, or not in base64")
	}
	sum := sha256.Sum256([]byte(text))
	switch tags["a"] {
	case "rsa-sha256":
		k, err := rsaKey(der)
		if err != nil {
			return err
		}
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig)
	case "ed25519-sha256":
		if len(der) != ed25519.PublicKeySize || !ed25519.Verify(der, sum[:], sig) {
			return errors.New("signature does not match")
		}
		return nil
	}
	return fmt.Errorf("algorithm %q", tags["a"])
}

func rsaKey(der []byte) (*rsa.PublicKey, error) {
	k := parseRSA(der)
	if k == nil {
		return nil, errors.New("key: not an RSA key")
	}
	if n := k.N.BitLen(); n < minRSA || n > maxRSA {
		return nil, fmt.Errorf("key: of %d bits", n)
	}
	return k, nil
}

// parseRSA reads a key in either of the forms that are used (RFC 6376, erratum 3017).
func parseRSA(der []byte) *rsa.PublicKey {
	if parsed, err := x509.ParsePKIXPublicKey(der); err == nil {
		k, _ := parsed.(*rsa.PublicKey)
		return k
	}
	k, err := x509.ParsePKCS1PublicKey(der)
	if err != nil {
		return nil
	}
	return k
}

// parseTags reads a list of tag=value (RFC 6376 section 3.2).
func parseTags(s string) (map[string]string, error) {
	tags := map[string]string{}
	s = strings.TrimRight(s, " \t\r\n")
	for part := range strings.SplitSeq(strings.TrimSuffix(s, ";"), ";") {
		name, value, ok := strings.Cut(strings.Trim(part, " \t\r\n"), "=")
		name = strings.TrimRight(name, " \t\r\n")
		if _, twice := tags[name]; !ok || !isTag(name) || twice {
			return nil, fmt.Errorf("tag %q", part)
		}
		tags[name] = strings.TrimLeft(value, " \t\r\n")
	}
	return tags, nil
}

// isTag tells whether a name is a letter, followed by letters, digits and _.
func isTag(name string) bool {
	for i, c := range []byte(name) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return name != ""
}

// squeeze takes out white space.
func squeeze(s string) string { return strings.Join(strings.FieldsFunc(s, isSpace), "") }

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }

func fieldName(f string) string {
	name, _, _ := strings.Cut(f, ":")
	return strings.ToLower(strings.TrimRight(name, " \t"))
}

func fieldValue(f string) string {
	_, value, _ := strings.Cut(f, ":")
	return value
}

// withoutSignature empties the tag b=.
func withoutSignature(f string) string {
	name, value, _ := strings.Cut(f, ":")
	parts := strings.Split(value, ";")
	for i, p := range parts {
		if key, _, ok := strings.Cut(p, "="); ok && strings.TrimSpace(key) == "b" {
			end := ""
			if i == len(parts)-1 && strings.HasSuffix(p, "\r\n") {
				end = "\r\n"
			}
			parts[i] = key + "=" + end
		}
	}
	return name + ":" + strings.Join(parts, ";")
}

// relaxedField is a field in the relaxed form (RFC 6376 section 3.4.2).
func relaxedField(f string) string {
	return fieldName(f) + ":" + strings.Join(strings.FieldsFunc(fieldValue(f), isSpace), " ") + "\r\n"
}

// readLine returns a line with its end. One that is too long for memory is an error.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return string(line), err
		}
		if len(line) > maxLine {
			return "", errors.New("line too long")
		}
	}
}

// hashBody hashes a body in its canonical form (RFC 6376 sections 3.4.3 and 3.4.4),
// its first limit bytes when there is a limit (l=).
func hashBody(h hash.Hash, body io.Reader, relaxed bool, limit string) error {
	left := int64(-1)
	if limit != "" {
		n, err := strconv.ParseInt(limit, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("l=%q", limit)
		}
		left = n
	}
	write := func(b []byte) {
		if left >= 0 {
			b = b[:min(int64(len(b)), left)]
			left -= int64(len(b))
		}
		h.Write(b)
	}
	r := bufio.NewReader(body)
	empty, text := 0, false
	for {
		line, err := readLine(r)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if line != "" {
			b := bytes.TrimSuffix([]byte(line), []byte("\r\n"))
			if relaxed {
				b = relaxLine(b)
			}
			if len(b) == 0 {
				empty++
			} else {
				for ; empty > 0; empty-- {
					write([]byte("\r\n"))
				}
				write(b)
				write([]byte("\r\n"))
				text = true
			}
		}
		if err != nil {
			break
		}
	}
	if !text && !relaxed {
		write([]byte("\r\n"))
	}
	return nil
}

// relaxLine makes runs of white space one space and drops them at the end.
func relaxLine(b []byte) []byte {
	out := make([]byte, 0, len(b))
	space := false
	for _, c := range b {
		if c == ' ' || c == '\t' {
			space = true
			continue
		}
		if space {
			out = append(out, ' ')
			space = false
		}
		out = append(out, c)
	}
	return out
}
