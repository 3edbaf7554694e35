package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
)

// keyFiles writes an RSA and an Ed25519 key, and returns their files and DNS records.
func keyFiles(t *testing.T) (files []string, records map[string]string) {
	t.Helper()
	dir := t.TempDir()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pub, e, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(e)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{
		"rsa": {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(r)}, "ed": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{filepath.Join(dir, "rsa"), filepath.Join(dir, "ed")}, map[string]string{
		"one._domainkey.example.org": "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(spki),
		"two._domainkey.example.org": "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub),
	}
}

// verify returns the domains and selectors of the valid signatures of a message.
func verify(t *testing.T, text string, records map[string]string) []string {
	t.Helper()
	list, err := dkim.VerifyWithOptions(strings.NewReader(text), &dkim.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) { return []string{records[name]}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var valid []string
	for _, v := range list {
		if v.Err != nil {
			t.Errorf("signature for %s: %v\n%s", v.Domain, v.Err, text)
			continue
		}
		valid = append(valid, v.Domain)
	}
	return valid
}

func TestMessageIsSignedWithEachKey(t *testing.T) {
	t.Parallel()
	files, records := keyFiles(t)
	for _, canon := range []string{"simple/simple", "relaxed/relaxed", "relaxed"} {
		o := options{domains: []string{"example.org"}}
		if err := o.setCanonicalization(canon); err != nil {
			t.Fatal(err)
		}
		if err := o.readKeys(files, []string{"one", "two"}, ""); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
		d := filtertest.Start(t, &filter.Filter{Message: o.sign}, filtertest.OpenSMTPD())
		text := "From: A <a@Mail.Example.org>\nSubject: two\n words \n\n.dot\nend  \n\n\n"
		got := d.Open("192.0.2.1:1", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@x"}, Text: text})
		if got.Refused != "" || !strings.HasSuffix(got.Text, text) {
			t.Fatalf("%s: %+v", canon, got)
		}
		signed := strings.ReplaceAll(got.Text, "\n", "\r\n")
		if valid := verify(t, signed, records); len(valid) != 2 {
			t.Errorf("%s: valid signatures: %v", canon, valid)
		}
		if list, _ := dkim.VerifyWithOptions(strings.NewReader(strings.Replace(signed, "two\r\n words", "three", 1)), &dkim.VerifyOptions{
			LookupTXT: func(name string) ([]string, error) { return []string{records[name]}, nil },
		}); len(list) != 2 || list[0].Err == nil || list[1].Err == nil {
			t.Errorf("%s: another subject is covered by the signatures", canon)
		}
	}
}

func TestMessageWithoutAuthorGoesOnUnsigned(t *testing.T) {
	t.Parallel()
	files, _ := keyFiles(t)
	o := options{domains: []string{"example.org"}, header: "simple", body: "simple"}
	if err := o.readKeys(files[:1], []string{"one"}, "rsa-sha256"); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	d := filtertest.Start(t, &filter.Filter{Message: o.sign}, filtertest.Current())
	got := d.Open("192.0.2.1:1", "x").Send(filtertest.Mail{From: "a@x", To: []string{"b@x"}, Text: "Subject: x\n\nx\n"})
	if got.Refused != "" || got.Text != "Subject: x\n\nx\n" || !strings.Contains(d.Log(), "no From field") {
		t.Errorf("%+v, log %q", got, d.Log())
	}
}

func TestDomainIsTheAuthors(t *testing.T) {
	t.Parallel()
	o := options{domains: []string{"first.example", "example.org", "sub.example.org"}}
	for from, want := range map[string]string{
		"a@example.org":                 "example.org",
		"A <a@EXAMPLE.ORG>":             "example.org",
		"a@x.example.org":               "example.org",
		"a@y.sub.example.org":           "sub.example.org",
		"a@notexample.org":              "first.example",
		"a@elsewhere.test":              "first.example",
		"not an address":                "first.example",
		"a@example.org, b@example.org":  "first.example",
		"\"x@sub.example.org\" <b@y.z>": "first.example",
	} {
		if got := o.domain([]string{from}); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	files, _ := keyFiles(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		want string
		err  func(o *options) error
	}{
		{"give at least one", func(o *options) error { return o.readKeys(nil, nil, "") }},
		{"1 keys (-k) and 2", func(o *options) error { return o.readKeys(files[:1], []string{"a", "b"}, "") }},
		{"not in PEM", func(o *options) error { return o.readKeys([]string{other}, []string{"a"}, "") }},
		{"no key for rsa-sha256", func(o *options) error { return o.readKeys(files[1:], []string{"a"}, "rsa-sha256") }},
		{"no such file", func(o *options) error { return o.readKeys([]string{other + "x"}, []string{"a"}, "") }},
		{"neither simple nor relaxed", func(o *options) error { return o.setCanonicalization("strict/simple") }},
		{"no domain", func(o *options) error { return o.check() }},
		{"must have From", func(o *options) error { o.domains, o.headers = []string{"x"}, []string{"To"}; return o.check() }},
	} {
		if err := tt.err(new(options)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}
