package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// section returns the fields and the body of a message for checkDKIM.
func section(text string) ([]string, io.ReadSeeker) {
	fields, body := parts(text)
	return fields, body.(io.ReadSeeker)
}

// signedFields returns a DKIM signed message whose signature covers those fields.
func signedFields(t testing.TB, domain string, key crypto.Signer, names []string, message string) string {
	t.Helper()
	var b strings.Builder
	err := dkim.Sign(&b, strings.NewReader(message), &dkim.SignOptions{Domain: domain, Selector: "rsa", Signer: key, HeaderKeys: names})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func namesUpTo(n int) []string {
	names := []string{"From"}
	for i := 1; i < n; i++ {
		names = append(names, fmt.Sprintf("X%d", i))
	}
	return names
}

// Each name of a field is looked for, so their number is bounded.
func TestSignaturesOfManyFieldsAreNotVerified(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	z["_dmarc.example.org"] = []string{"v=DMARC1; p=reject"}
	for n, want := range map[int]string{maxNames: "dkim=pass dmarc=pass", maxNames + 1: "dkim=permerror dmarc=fail", 5000: "dkim=permerror dmarc=fail"} {
		text := signedFields(t, "example.org", keys["rsa"], namesUpTo(n), message)
		o, log := check(t, z, "x@list.example", text)
		if !strings.Contains(log, want) {
			t.Errorf("%d names: log %s, want %s", n, log, want)
		}
		if !strings.Contains(o.Text, "header.d=example.org") {
			t.Errorf("%d names: %s", n, o.Text)
		}
		ams := strings.Repeat("x:", n-1) + "from:to:subject"
		fields, body := parts(seal(t, "list.example", 1, keys["rsa"].(*rsa.PrivateKey), "none", message))
		for i := range fields {
			fields[i] = strings.Replace(fields[i], "h=from:to:subject", "h="+ams, 1)
		}
		got := checkARC(t.Context(), fields, body, z.txt)
		if many := strings.Contains(fmt.Sprint(got.reason), "too many fields"); many != (n+2 > maxNames) {
			t.Errorf("ARC, %d names: %v", n, got.reason)
		}
	}
}

// A message of many signatures, names and fields is checked all the same.
func TestManySignaturesNamesAndFields(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	z["_dmarc.example.org"] = []string{"v=DMARC1; p=reject"}
	text := strings.Repeat("a:\r\n", 50_000) + message
	names := namesUpTo(maxNames)
	sig, _, _ := strings.Cut(signedFields(t, "example.org", keys["rsa"], []string{"From"}, message), "\r\nFrom:")
	many := strings.Replace(sig, "h=From;", "h="+strings.Join(names, ":")+";", 1)
	if many == sig {
		t.Fatal(sig)
	}
	text = strings.Repeat(many+"\r\n", maxSignatures-1) + signedFields(t, "example.org", keys["rsa"], names, text)
	o, log := check(t, z, "x@list.example", text, "p dmarc=fail:obey")
	if !strings.Contains(log, "dkim=pass dmarc=pass") || o.Refused != "" {
		t.Errorf("log %s", log)
	}
	if n := strings.Count(o.Text[:4096], "dkim="); n != maxSignatures {
		t.Errorf("%d results: %.1000s", n, o.Text)
	}
}

// Signatures that cover others are valid, in whatever order they are.
func TestSignaturesOfSignatures(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	first := signed(t, "example.org", "ed", "simple/simple", keys["ed"], message)
	second := signedFields(t, "list.example", keys["rsa"], []string{"From", "To", "To", "DKIM-Signature"}, first)
	third := signedFields(t, "evil.test", keys["rsa"], []string{"From", "DKIM-Signature", "DKIM-Signature"}, second)
	for text, n := range map[string]int{first: 1, second: 2, third: 3, "To: more\r\n" + third: 3} {
		fields, body := section(text)
		got := checkDKIM(t.Context(), fields, body, z.txt)
		for _, s := range got {
			if s.value != "pass" {
				t.Errorf("%d: %s %s", n, s.domain, s.value)
			}
		}
		if len(got) != n {
			t.Errorf("%d signatures, want %d", len(got), n)
		}
	}
	fields, body := section(strings.Replace(third, "d=example.org", "d=EXAMPLE.org", 1))
	for _, s := range checkDKIM(t.Context(), fields, body, z.txt) {
		if s.value == "pass" {
			t.Errorf("the signature of %s covers one that was changed", s.domain)
		}
	}
}

// The time for an RSA key grows by the square of its length, which strangers choose.
func TestLongKeysAreRefused(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	for bits, want := range map[uint]string{maxRSA: "fail", maxRSA + 1: "permerror", 1 << 17: "permerror"} {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		k := &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
		spki, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		for form, der := range map[string][]byte{"SubjectPublicKeyInfo": spki, "RSAPublicKey": x509.MarshalPKCS1PublicKey(k)} {
			z["rsa._domainkey.example.org"] = []string{"v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)}
			z["rsa._domainkey.list.example"] = z["rsa._domainkey.example.org"]
			fields, body := section(signed(t, "example.org", "rsa", "simple/simple", keys["rsa"], message))
			if got := checkDKIM(t.Context(), fields, body, z.txt); string(got[0].value) != want {
				t.Errorf("%d bits, %s: %s, want %s", bits, form, got[0].value, want)
			}
			fields, body = section(seal(t, "list.example", 1, keys["rsa"].(*rsa.PrivateKey), "none", message))
			got := checkARC(t.Context(), fields, body, z.txt)
			if refused := strings.Contains(got.reason.Error(), "bits"); refused != (want == "permerror") {
				t.Errorf("ARC, %d bits, %s: %v", bits, form, got.reason)
			}
		}
	}
}

// What is not reached in time is not known, and nothing is done any more.
func TestChecksEndWithTheContext(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	key := keys["rsa"].(*rsa.PrivateKey)
	fields, body := section(signed(t, "example.org", "ed", "simple/simple", keys["ed"], signed(t, "example.org", "rsa", "simple/simple", keys["rsa"], message)))
	ctx, cancel := context.WithCancel(t.Context())
	for _, s := range checkDKIM(ctx, fields, body, func(name string) ([]string, error) { cancel(); return z.txt(name) }) {
		if s.value != "temperror" {
			t.Errorf("DKIM: %s", s.value)
		}
	}
	asked := 0
	again, stop := context.WithCancel(t.Context())
	fields, body = section(seal(t, "example.org", 2, key, "pass", seal(t, "list.example", 1, key, "none", message)))
	got := checkARC(again, fields, body, func(name string) ([]string, error) {
		asked++
		stop()
		return z.txt(name)
	})
	if got.value != "fail" || asked != 1 {
		t.Errorf("ARC: %s (%v), asked %d times", got.value, got.reason, asked)
	}
	body = strings.NewReader(strings.Repeat("x", 1<<20))
	if n, err := io.Copy(io.Discard, reader{ctx, body}); n != 0 || err == nil {
		t.Errorf("%d bytes were read, %v", n, err)
	}
}

// All keys are asked for before any is waited for.
func TestASlowKeyDoesNotKeepOthersAway(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	fields, body := section(signed(t, "evil.test", "ed", "simple/simple", keys["ed"], signed(t, "example.org", "rsa", "simple/simple", keys["rsa"], message)))
	other := make(chan struct{})
	got := checkDKIM(t.Context(), fields, body, func(name string) ([]string, error) {
		if strings.HasSuffix(name, ".evil.test") {
			<-other
			return nil, &net.DNSError{Err: "slow", IsTemporary: true}
		}
		close(other)
		return z.txt(name)
	})
	if len(got) != 2 || got[0].value != "temperror" || got[1].value != "pass" {
		t.Errorf("%+v", got)
	}
}

// Nothing that is not signed with a key of the zone is valid.
func FuzzDKIM(f *testing.F) {
	keys, z := signers(f)
	f.Add(signed(f, "example.org", "ed", "relaxed/simple", keys["ed"], message), "v=DKIM1; p=AAAA")
	f.Add("DKIM-Signature: v=1; h=from:dkim-signature; d=a; s= b; b =;\r\n\r\n", "p")
	f.Fuzz(func(t *testing.T, text, record string) {
		fields, body := section(text)
		for _, s := range checkDKIM(t.Context(), fields, body, func(string) ([]string, error) { return []string{record}, nil }) {
			if s.value == "pass" && record != z["ed._domainkey.example.org"][0] {
				t.Errorf("valid with the key %q:\n%s", record, text)
			}
		}
	})
}
