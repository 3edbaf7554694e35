package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	library "blitiri.com.ar/go/spf"
	mdns "github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/opensmtpd/opensmtpd/cmd/filter-auth/internal/spf"
	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// suite is a document of the test suite of RFC 7208: a zone and questions about it.
type suite struct {
	Description string
	Tests       map[string]struct {
		Host, Helo, MailFrom string
		Result               texts  // any of these is right
		Explanation          string // DEFAULT for none
	}
	Zone map[string][]any `yaml:"zonedata"`
}

// texts is one text or a list of them.
type texts []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (x *texts) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode((*[]string)(x))
	}
	*x = texts{n.Value}
	return nil
}

// suites reads a test suite that comes with the SPF library.
func suites(t *testing.T, file string) []suite {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "blitiri.com.ar/go/spf").Output()
	if err != nil {
		t.Fatalf("the SPF library's directory is not known: %v", err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if file == "blitirispf-tests.yml" {
		text = longNames(text)
	}
	var all []suite
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var s suite
		switch err := d.Decode(&s); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, s)
	}
}

// longNames gives names of one label a second one. In the library's suite there are some,
// and RFC 7208 has them neither in records (section 7.1) nor in questions (section 4.3).
func longNames(text []byte) []byte {
	for _, name := range []string{
		`(mailfrom: "foo@[a-z0-9-]+)(")`, `(?m)(^  [a-z0-9-]+)(:$)`,
		`(MX: \[\d+, "?[a-z0-9]+)("?\])`, `(\b(?:a|mx|include|exists|redirect)[:=][a-z0-9-]+)(\s)`,
	} {
		text = regexp.MustCompile(name).ReplaceAll(text, []byte("${1}.test${2}"))
	}
	return text
}

// suiteZone is a zone of the suite, records by type by name.
type suiteZone map[string]map[string][]string

// failing is the type of a record that stands for a name server that does not answer.
const failing = "TIMEOUT"

func newSuiteZone(t *testing.T, s suite) suiteZone {
	t.Helper()
	z := suiteZone{}
	for name, records := range s.Zone {
		name = strings.ToLower(name)
		z[name] = map[string][]string{}
		for _, r := range records {
			fields, ok := r.(map[string]any)
			if !ok { // a word
				z[name][failing] = []string{""}
				continue
			}
			for kind, value := range fields {
				if kind == "SERVFAIL" || kind == "CNAMELOOP" {
					kind = failing
				}
				z[name][kind] = append(z[name][kind], rdata(kind, value))
			}
		}
		// Of type SPF is what is of type TXT, too, if nothing else is said.
		if z[name]["TXT"] == nil {
			z[name]["TXT"] = z[name]["SPF"]
		}
		if slices.Equal(z[name]["TXT"], []string{"NONE"}) {
			delete(z[name], "TXT")
		}
	}
	return z
}

// rdata returns the value of a record: strings joined; preference and host of an MX.
func rdata(kind string, value any) string {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var parts []string
	for _, v := range list {
		if n, ok := v.(int); ok {
			v = string(rune('0' + n%10))
		}
		if s, ok := v.(string); ok {
			parts = append(parts, s)
		}
	}
	if kind == "MX" {
		return strings.Join(parts, " ")
	}
	return strings.Join(parts, "")
}

// lookup answers as the daemon does.
func (z suiteZone) lookup(kind wire.Query, name string) ([]string, wire.Status) {
	kinds := map[wire.Query][]string{wire.QueryTXT: {"TXT"}, wire.QueryMX: {"MX"}, wire.QueryHost: {"A", "AAAA"}, wire.QueryAddr: {"PTR"}}
	if kind == wire.QueryAddr {
		arpa, err := mdns.ReverseAddr(name)
		if err != nil {
			return nil, wire.StatusRefused
		}
		name = arpa
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for range 10 {
		records := z[name]
		var found []string
		for _, k := range kinds[kind] {
			found = append(found, records[k]...)
		}
		switch alias := records["CNAME"]; {
		case len(found) > 0:
			return found, wire.StatusOK
		case records[failing] != nil:
			return nil, wire.StatusTempFail
		case alias == nil:
			return nil, wire.StatusNotFound
		default:
			name = strings.ToLower(strings.TrimSuffix(alias[0], "."))
		}
	}
	return nil, wire.StatusTempFail
}

// dnsOf answers from a zone, as a resolver.
type dnsOf struct{ zone suiteZone }

func (d dnsOf) ask(kind wire.Query, name string) ([]string, error) {
	values, status := d.zone.lookup(kind, name)
	switch status {
	case wire.StatusOK:
		return values, nil
	case wire.StatusNotFound:
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return nil, &net.DNSError{Err: "timeout", Name: name, IsTimeout: true, IsTemporary: true}
}

func (d dnsOf) LookupTXT(_ context.Context, name string) ([]string, error) {
	return d.ask(wire.QueryTXT, name)
}

func (d dnsOf) LookupHost(_ context.Context, name string) ([]string, error) {
	return d.ask(wire.QueryHost, name)
}

func (d dnsOf) LookupAddr(_ context.Context, address string) ([]string, error) {
	return d.ask(wire.QueryAddr, address)
}

func (d dnsOf) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	values, err := d.ask(wire.QueryMX, name)
	var hosts []*net.MX
	for _, v := range values {
		_, host, _ := strings.Cut(v, " ")
		hosts = append(hosts, &net.MX{Host: host})
	}
	return hosts, err
}

// LookupIPAddr is for the library.
func (d dnsOf) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	values, err := d.ask(wire.QueryHost, name)
	var addrs []net.IPAddr
	for _, v := range values {
		addrs = append(addrs, net.IPAddr{IP: net.ParseIP(v)})
	}
	return addrs, err
}

// The whole test suite of RFC 7208, through the filter and the protocol.
func TestSuiteOfRFC7208(t *testing.T) {
	t.Parallel()
	result := regexp.MustCompile(`\bspf=([a-z]+)`)
	n := 0
	for _, s := range suites(t, "rfc7208-tests.yml") {
		c := checker{id: "mx.example.net", patience: defaultPatience}
		d := filtertest.Start(t, &filter.Filter{Message: c.message}, filtertest.Current())
		d.Lookup(newSuiteZone(t, s).lookup)
		for name, test := range s.Tests {
			n++
			session := d.Open(netip.AddrPortFrom(netip.MustParseAddr(test.Host), 1).String(), "client.test")
			session.Report(wire.LinkIdentify{Method: "EHLO", Identity: test.Helo})
			o := session.Send(filtertest.Mail{From: test.MailFrom, To: []string{"b@example.net"}, Text: "Subject: x\n\ntext\n"})
			session.Close()
			if got := result.FindStringSubmatch(o.Text); got == nil || !slices.Contains(test.Result, got[1]) {
				t.Errorf("%s: %v, want %v", name, got, test.Result)
			}
		}
	}
	if n != 203 {
		t.Errorf("the suite has %d questions, want 203", n)
	}
}

// Where the suite says what a domain's explanation is, it is that.
func TestExplanationsOfTheSuite(t *testing.T) {
	t.Parallel()
	n := 0
	for _, s := range suites(t, "rfc7208-tests.yml") {
		d := dnsOf{newSuiteZone(t, s)}
		for name, test := range s.Tests {
			want := test.Explanation
			switch want {
			case "":
				continue
			case "DEFAULT": // there is none
				want = ""
			}
			n++
			got := spf.Check(t.Context(), d, spf.Query{IP: netip.MustParseAddr(test.Host), Helo: test.Helo, Sender: test.MailFrom, Receiver: "mx.example.net", Explain: true})
			// The digits of an IPv6 address are in lower case, as in RFC 7208 section 7.4.
			if !strings.EqualFold(got.Explanation, want) {
				t.Errorf("%s: %q, want %q", name, got.Explanation, want)
			}
		}
	}
	if n < 20 {
		t.Errorf("the suite has %d explanations", n)
	}
}

// The suites of RFC 4408, of pyspf and of the library, but for what RFC 7208 says
// otherwise.
func TestOtherSuites(t *testing.T) {
	t.Parallel()
	otherwise := map[string]spf.Result{
		// The modifier default was in drafts; pyspf knows it. RFC 7208 section 6: unknown
		// modifiers are ignored.
		"pyspf-tests.yml default-modifier":       spf.Neutral,
		"pyspf-tests.yml default-modifier-harsh": spf.Neutral,
	}
	for file, least := range map[string]int{"rfc4408-tests.yml": 180, "pyspf-tests.yml": 15, "blitirispf-tests.yml": 83} {
		n := 0
		for _, s := range suites(t, file) {
			d := dnsOf{newSuiteZone(t, s)}
			for name, test := range s.Tests {
				n++
				if want := otherwise[file+" "+name]; want != "" {
					test.Result = texts{string(want)}
				}
				got := spf.Check(t.Context(), d, spf.Query{IP: netip.MustParseAddr(test.Host), Helo: test.Helo, Sender: test.MailFrom})
				if !slices.Contains(test.Result, string(got.Result)) {
					t.Errorf("%s: %s: %s (%v), want %v", file, name, got.Result, got.Err, test.Result)
				}
			}
		}
		if n < least {
			t.Errorf("%s has %d questions, want at least %d", file, n, least)
		}
	}
}

// The library answers alike what the suite does not ask: for every domain of a zone,
// from every client that occurs there.
func TestSecondOpinion(t *testing.T) {
	t.Parallel()
	n := 0
	for _, s := range suites(t, "rfc7208-tests.yml") {
		d := dnsOf{newSuiteZone(t, s)}
		clients := map[string]string{} // by addresses, what they call themselves
		broken := map[string]bool{}    // domains with records that are, says the suite
		for _, test := range s.Tests {
			clients[test.Host] = test.Helo
			if _, domain, _ := strings.Cut(test.MailFrom, "@"); slices.Contains(test.Result, "permerror") {
				broken[domain] = true
			}
		}
		for domain, records := range d.zone {
			// What the library does not know: host names with a slash, and the macro p.
			text := strings.Join(records["TXT"], " ")
			if strings.Contains(text, "/baz.example.com") || strings.Contains(text, "%{p}") {
				continue
			}
			for host, helo := range clients {
				sender := "some.one-else@" + domain
				ours := spf.Check(t.Context(), d, spf.Query{IP: netip.MustParseAddr(host), Helo: helo, Sender: sender})
				theirs, why := library.CheckHostWithSender(net.ParseIP(host), helo, sender, library.WithContext(t.Context()), library.WithResolver(d))
				if ours.Result == spf.PermError && broken[domain] {
					continue // it finds mistakes only as it comes to them
				}
				n++
				if string(ours.Result) != string(theirs) {
					t.Errorf("%s: %q from %s: %s (%v), the library says %s (%v)", domain, text, host, ours.Result, ours.Err, theirs, why)
				}
			}
		}
	}
	if n < 600 {
		t.Errorf("only %d questions are compared", n)
	}
}
