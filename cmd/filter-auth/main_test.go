package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// zone answers TXT queries of a test. A name with nil is not known now.
type zone map[string][]string

func (z zone) txt(name string) ([]string, error) {
	if list, ok := z[strings.TrimSuffix(name, ".")]; ok {
		return list, nil
	}
	return nil, fmt.Errorf("no TXT record of %s", name)
}

// signers returns an RSA and an Ed25519 key with their records.
func signers(t testing.TB) (map[string]crypto.Signer, zone) {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pub, e, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"rsa": r, "ed": e}
	z := zone{}
	for _, domain := range []string{"example.org", "list.example", "evil.test"} {
		z["rsa._domainkey."+domain] = []string{"v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(spki)}
		z["ed._domainkey."+domain] = []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)}
	}
	return keys, z
}

// parts returns the fields and the body of a message.
func parts(text string) ([]string, io.Reader) {
	head, body, _ := strings.Cut(text, "\r\n\r\n")
	var fields []string
	for line := range strings.Lines(head + "\r\n") {
		if n := len(fields); n > 0 && (line[0] == ' ' || line[0] == '\t') {
			fields[n-1] += line
			continue
		}
		fields = append(fields, line)
	}
	return fields, strings.NewReader(body)
}

// signed returns a DKIM signed message.
func signed(t testing.TB, domain, selector, canon string, key crypto.Signer, message string) string {
	t.Helper()
	header, body, _ := strings.Cut(canon, "/")
	var b strings.Builder
	err := dkim.Sign(&b, strings.NewReader(message), &dkim.SignOptions{
		Domain: domain, Selector: selector, Signer: key, HeaderCanonicalization: dkim.Canonicalization(header), BodyCanonicalization: dkim.Canonicalization(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const message = "From: A <a@example.org>\r\nTo: b@example.net\r\nSubject: some  \r\n\twords\r\nTo: c@example.net\r\n\r\nHello  \t you \r\n\r\n.\r\n\r\n\r\n"

// A DKIM signature is checked like an ARC-Message-Signature, so another
// implementation's signatures show whether both forms of fields and bodies are right.
func TestSignaturesOfAnotherImplementationAreValid(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	for _, canon := range []string{"simple/simple", "relaxed/simple", "simple/relaxed", "relaxed/relaxed"} {
		for selector, key := range keys {
			for name, text := range map[string]string{"message": message, "no body": "From: a@example.org\r\n\r\n", "empty lines": "From: a@example.org\r\n\r\n\r\n\r\n"} {
				check := func(text string) error {
					fields, body := parts(text)
					return verifySignature(fields[0], newIndex(fields[1:]), body, z.txt)
				}
				s := signed(t, "example.org", selector, canon, key, text)
				if err := check(s); err != nil {
					t.Errorf("%s %s %s: %v", canon, selector, name, err)
				}
				if err := check(s + "more\r\n"); err == nil {
					t.Errorf("%s %s %s: a longer body is valid", canon, selector, name)
				}
				if err := check(strings.Replace(s, "\r\nFrom: ", "\r\nFrom: x ", 1)); err == nil {
					t.Errorf("%s %s %s: another author is valid", canon, selector, name)
				}
			}
		}
	}
}

// seal adds an instance of ARC to a message, with those results or "spf=pass".
func seal(t testing.TB, domain string, i int, key *rsa.PrivateKey, cv, text string, results ...string) string {
	t.Helper()
	if results == nil {
		results = []string{"spf=pass"}
	}
	sign := func(covered string) string {
		sum := sha256.Sum256([]byte(covered))
		b, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	fields, body := parts(text)
	h := sha256.New()
	if err := hashBody(h, body, true, ""); err != nil {
		t.Fatal(err)
	}
	sets, err := arcSets(fields)
	if err != nil {
		t.Fatal(err)
	}
	aar := fmt.Sprintf("ARC-Authentication-Results: i=%d; %s; %s\r\n", i, domain, strings.Join(results, "; "))
	ams := fmt.Sprintf("ARC-Message-Signature: i=%d; a=rsa-sha256; c=relaxed/relaxed; d=%s; s=rsa; h=from:to:subject; bh=%s; b=", i, domain, base64.StdEncoding.EncodeToString(h.Sum(nil)))
	covered := ""
	for _, name := range []string{"from", "to", "subject"} {
		covered += relaxedField(newIndex(fields).covered([]string{name})[0])
	}
	ams += sign(covered+strings.TrimSuffix(relaxedField(ams+"\r\n"), "\r\n")) + "\r\n"
	as := fmt.Sprintf("ARC-Seal: i=%d; a=rsa-sha256; cv=%s; d=%s; s=rsa; b=", i, cv, domain)
	covered = ""
	for _, s := range sets {
		covered += relaxedField(s.results) + relaxedField(s.signature) + relaxedField(s.seal)
	}
	covered += relaxedField(aar) + relaxedField(ams) + strings.TrimSuffix(relaxedField(as+"\r\n"), "\r\n")
	return as + sign(covered) + "\r\n" + ams + aar + text
}

func TestChainOfSeals(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	key := keys["rsa"].(*rsa.PrivateKey)
	one := seal(t, "list.example", 1, key, "none", message)
	two := seal(t, "example.org", 2, key, "pass", "Received: by list\r\n"+one)
	for name, tt := range map[string]struct{ text, want string }{
		"none":                  {message, "none"},
		"one":                   {one, "pass"},
		"two":                   {two, "pass"},
		"body changed":          {two + "x\r\n", "fail"},
		"first seal changed":    {strings.Replace(two, "i=1; list.example", "i=1; evil.test", 1), "fail"},
		"first seal missing":    {strings.Replace(two, "ARC-Seal: i=1", "X-Seal: i=1", 1), "fail"},
		"instance missing":      {strings.ReplaceAll(two, "i=1;", "i=3;"), "fail"},
		"there twice":           {"ARC-Authentication-Results: i=2; x; none\r\n" + two, "fail"},
		"says it failed":        {seal(t, "example.org", 2, key, "fail", one), "fail"},
		"first says pass":       {seal(t, "example.org", 1, key, "pass", message), "fail"},
		"key is not there":      {strings.ReplaceAll(two, "d=example.org", "d=nowhere.test"), "fail"},
		"instance is no number": {strings.Replace(one, "ARC-Seal: i=1", "ARC-Seal: i=x", 1), "fail"},
	} {
		fields, body := parts(tt.text)
		got := checkARC(t.Context(), fields, body, z.txt)
		if string(got.value) != tt.want {
			t.Errorf("%s: %s (%v), want %s", name, got.value, got.reason, tt.want)
		}
		if name == "two" && (len(got.sets) != 2 || got.sets[1].sealer() != "example.org") {
			t.Errorf("sets %q", got.sets)
		}
	}
}

// check sends a message through the filter with the options, from 192.0.2.1.
func check(t *testing.T, z zone, from, text string, options ...string) (filtertest.Outcome, string) {
	t.Helper()
	c := checker{id: "mx.example.net", patience: defaultPatience}
	for _, o := range options {
		kind, value, _ := strings.Cut(o, " ")
		err := map[string]func(string) error{"p": c.addRule, "t": c.addSealer}[kind](value)
		if err != nil {
			t.Fatal(err)
		}
	}
	d := filtertest.Start(t, &filter.Filter{Message: c.message}, filtertest.Current())
	d.Lookup(func(kind wire.Query, name string) ([]string, wire.Status) {
		if list, ok := z[strings.TrimSuffix(name, ".")]; ok && kind == wire.QueryTXT {
			if list == nil {
				return nil, wire.StatusTempFail
			}
			return list, wire.StatusOK
		}
		return nil, wire.StatusNotFound
	})
	s := d.Open("192.0.2.1:1", "client.test")
	defer s.Close()
	o := s.Send(filtertest.Mail{From: from, To: []string{"b@example.net"}, Text: strings.ReplaceAll(text, "\r\n", "\n")})
	return o, d.Log()
}

func TestResultsAreWritten(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	z["example.org"] = []string{"v=spf1 ip4:192.0.2.0/24 -all"}
	z["_dmarc.example.org"] = []string{"v=DMARC1; p=reject"}
	z["evil.test"] = []string{"v=spf1 -all"}
	good := signed(t, "example.org", "rsa", "relaxed/relaxed", keys["rsa"], message)
	for name, tt := range map[string]struct {
		from, text string
		want       []string
	}{
		"all good":          {"a@example.org", good, []string{"spf=pass", "dkim=pass", "dmarc=pass"}},
		"forwarded":         {"x@list.example", good, []string{"spf=none", "dkim=pass", "dmarc=pass"}},
		"not signed":        {"a@example.org", message, []string{"spf=pass", "dkim=none", "dmarc=pass"}},
		"changed":           {"x@list.example", good + "more\r\n", []string{"spf=none", "dkim=fail", "dmarc=fail"}},
		"somebody else":     {"x@evil.test", signed(t, "evil.test", "ed", "simple/simple", keys["ed"], message), []string{"spf=fail", "dkim=pass", "dmarc=fail"}},
		"no policy":         {"x@list.example", strings.ReplaceAll(message, "example.org", "list.example"), []string{"spf=none", "dkim=none", "dmarc=none"}},
		"two authors":       {"x@list.example", "From: a@evil.test\r\n" + message, []string{"dmarc=fail", "p=reject"}},
		"sub domain":        {"x@list.example", strings.ReplaceAll(message, "example.org", "sub.example.org"), []string{"dmarc=fail", "p=reject"}},
		"claims to be ours": {"x@list.example", "Authentication-Results: MX.example.net; dkim=pass\r\n" + message, []string{"dkim=none"}},
	} {
		o, log := check(t, z, tt.from, tt.text)
		header, rest, _ := strings.Cut(o.Text, "\nFrom:")
		if !strings.HasPrefix(header, "Authentication-Results: mx.example.net;") || o.Refused != "" {
			t.Errorf("%s: %+v, log %s", name, o, log)
		}
		for _, w := range tt.want {
			if !strings.Contains(header, w) {
				t.Errorf("%s: %q lacks %s", name, header, w)
			}
		}
		if strings.Count(header+rest, "Authentication-Results:") != 1 {
			t.Errorf("%s: %s", name, header)
		}
	}
}

func TestRulesDecide(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	z["example.org"] = []string{"v=spf1 ip4:198.51.100.1 ~all"}
	z["_dmarc.example.org"] = []string{"v=DMARC1; p=reject"}
	z["_dmarc.list.example"] = []string{"v=DMARC1; p=quarantine"}
	sealed := seal(t, "list.example", 1, keys["rsa"].(*rsa.PrivateKey), "none", message, "dmarc=pass header.from=example.org")
	for name, tt := range map[string]struct {
		text    string
		options []string
		refused string
		junk    bool
	}{
		"no rules":                 {message, nil, "", false},
		"obeys reject":             {message, []string{"p dmarc=fail:obey"}, "commit: reject|550 5.7.1 Message refused: dmarc=fail for example.org", false},
		"obeys quarantine":         {strings.ReplaceAll(message, "example.org", "list.example"), []string{"p dmarc=fail:obey"}, "", true},
		"softfail is junk":         {message, []string{"p spf=softfail:junk"}, "", true},
		"the gravest counts":       {message, []string{"p spf=softfail:junk", "p dkim=none:tempfail"}, "commit: reject|451 4.7.1 Try again later: dkim=none", false},
		"another result":           {message, []string{"p spf=fail:reject"}, "", false},
		"sealed by somebody":       {sealed, []string{"p dmarc=fail:reject"}, "commit: reject|550 5.7.1 Message refused: dmarc=fail for example.org", false},
		"sealed by who is trusted": {sealed, []string{"p dmarc=fail:reject", "t list.example"}, "", false},
	} {
		o, log := check(t, z, "x@example.org", tt.text, tt.options...)
		if o.Refused != tt.refused || o.Junk != tt.junk && !strings.HasPrefix(o.Text, "X-Spam") {
			t.Errorf("%s: %+v, log %s", name, o, log)
		}
	}
}

func TestRefusalHasTheDomainsOwnWords(t *testing.T) {
	t.Parallel()
	z := zone{
		"example.org": {"v=spf1 -all exp=why.example.org"}, "why.example.org": {"Ask %{l} about %{i}"},
		"quiet.example": {"v=spf1 -all"}, "long.example": {"v=spf1 -all exp=why.long.example"}, "why.long.example": {strings.Repeat("x", 2000)},
	}
	for from, want := range map[string]string{
		"x@example.org":   "commit: reject|550 5.7.1 Message refused: spf=fail for example.org, which explains: Ask x about 192.0.2.1",
		"x@quiet.example": "commit: reject|550 5.7.1 Message refused: spf=fail for quiet.example",
		"x@long.example":  "commit: reject|550 5.7.1 Message refused: spf=fail for long.example, which explains: " + strings.Repeat("x", 400),
	} {
		if o, log := check(t, z, from, message, "p spf=fail:reject"); o.Refused != want {
			t.Errorf("%s: %q, want %q; log %s", from, o.Refused, want, log)
		}
	}
}

func TestReasonOfABrokenRecordIsTold(t *testing.T) {
	t.Parallel()
	z := zone{"example.org": {`v=spf1 a:"\` + "\x01" + `; -all`}}
	o, log := check(t, z, "x@example.org", message)
	want := "Authentication-Results: mx.example.net;\n\t" +
		`spf=permerror reason="example.org: 'a:_'___x01_': a character that is not visible ASCII"` +
		" smtp.mailfrom=x@example.org;\n\tdkim=none;\n\tdmarc=none header.from=example.org\n"
	if !strings.HasPrefix(o.Text, want) {
		t.Errorf("%s\nwant %s", o.Text, want)
	}
	if want := `SPF: example.org: "a:`; !strings.Contains(log, want) {
		t.Errorf("log %q, want %q", log, want)
	}
}

// Who writes a domain in UTF-8 means the one of the DNS (RFC 8616).
func TestDomainsInUTF8(t *testing.T) {
	t.Parallel()
	z := zone{"xn--bcher-kva.example": {"v=spf1 ip4:192.0.2.1 -all"}, "_dmarc.xn--bcher-kva.example": {"v=DMARC1; p=reject; aspf=s"}}
	o, log := check(t, z, "x@xn--bcher-kva.example", "From: a@bücher.example\r\n\r\ntext\r\n")
	if !strings.Contains(o.Text, "dmarc=pass") || !strings.Contains(o.Text, "header.from=xn--bcher-kva.example") {
		t.Errorf("%+v, log %s", o, log)
	}
	o, log = check(t, z, "x@bücher.example", "From: a@xn--bcher-kva.example\r\n\r\ntext\r\n")
	if !strings.Contains(o.Text, "spf=pass") || !strings.Contains(o.Text, "dmarc=pass") {
		t.Errorf("%+v, log %s", o, log)
	}
}

func TestRulesAreChecked(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "spf", "spf=fail", "spf=bad:junk", "xyz=fail:junk", "spf=fail:obey", "spf=fail:drop", "dkim=softfail:junk", "spf=:junk"} {
		if err := new(checker).addRule(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func FuzzARC(f *testing.F) {
	keys, z := signers(f)
	f.Add(seal(f, "list.example", 1, keys["rsa"].(*rsa.PrivateKey), "none", message), "l=3")
	f.Add(message, "")
	f.Fuzz(func(t *testing.T, text, other string) {
		fields, body := parts(text)
		got := checkARC(t.Context(), fields, body, func(string) ([]string, error) { return []string{other}, nil })
		if got.value == "pass" && other != z["rsa._domainkey.list.example"][0] {
			t.Errorf("valid with the key %q:\n%s", other, text)
		}
		_ = hashBody(sha256.New(), strings.NewReader(text), true, other)
	})
}
