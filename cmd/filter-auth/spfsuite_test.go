package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// suite is a document of the test suite of RFC 7208: a zone and questions about it.
type suite struct {
	Description string
	Tests       map[string]struct {
		Host, Helo, MailFrom string
		Result               texts // any of these is right
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

// suites reads the test suite, which comes with the SPF library.
func suites(t *testing.T) []suite {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "blitiri.com.ar/go/spf").Output()
	if err != nil {
		t.Fatalf("the SPF library's directory is not known: %v", err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "rfc7208-tests.yml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []suite
	for d := yaml.NewDecoder(f); ; {
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

// The whole test suite of RFC 7208, through the filter and the protocol. What the
// library cannot do is listed: host names with a slash, the macro p.
func TestSuiteOfRFC7208(t *testing.T) {
	t.Parallel()
	result := regexp.MustCompile(`\bspf=([a-z]+)`)
	wrong, n := map[string]string{}, 0
	for _, s := range suites(t) {
		c := checker{id: "mx.example.net", patience: defaultPatience}
		d := filtertest.Start(t, &filter.Filter{Message: c.message}, filtertest.Current())
		d.Lookup(newSuiteZone(t, s).lookup)
		for name, test := range s.Tests {
			n++
			session := d.Open(netip.AddrPortFrom(netip.MustParseAddr(test.Host), 1).String(), "client.test")
			session.Report(wire.LinkIdentify{Method: "EHLO", Identity: test.Helo})
			o := session.Send(filtertest.Mail{From: test.MailFrom, To: []string{"b@example.net"}, Text: "Subject: x\n\ntext\n"})
			session.Close()
			got := result.FindStringSubmatch(o.Text)
			if got == nil || !slices.Contains(test.Result, got[1]) {
				wrong[name] = fmt.Sprintf("%v, want %v", got, test.Result)
			}
		}
	}
	for _, name := range []string{"a-colon-domain", "a-colon-domain-ip4mapped", "mx-colon-domain", "mx-colon-domain-ip4mapped", "p-macro-multiple"} {
		if wrong[name] == "" {
			t.Errorf("%s is right now", name)
		}
		delete(wrong, name)
	}
	for name, what := range wrong {
		t.Errorf("%s: %s", name, what)
	}
	if n != 203 {
		t.Errorf("the suite has %d questions, want 203", n)
	}
}

func FuzzSPFTerms(f *testing.F) {
	for _, s := range []string{"a/24//64 -all", "mx:%{d2r.}.example.org ~ptr", "ip4:192.0.2.0/24 ip6:2001:db8::/32", "redirect=_spf.example.org.", "exists:%{ir}.x%_%%", "x-y=%{l}"} {
		f.Add(s, "?all")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		// Terms are valid for themselves, but for modifiers that may be there once.
		valid := validTerms(a) && validTerms(b)
		if low := strings.ToLower(a + b); !strings.Contains(low, "redirect") && !strings.Contains(low, "exp") && validTerms(a+" "+b) != valid {
			t.Errorf("%q and %q: %v alone", a, b, valid)
		}
		if validTerms(a) && strings.ContainsFunc(a, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q is valid", a)
		}
	})
}
