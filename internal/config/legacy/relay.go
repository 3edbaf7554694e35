package legacy

import (
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
)

// relayAction collects the options of a relay.
type relayAction struct {
	hosts   string // "host URL" or "domain TABLE", as to be written
	url     tok    // as written; no text without "via"
	port    string // the options of before 5.2, when the URL was a host name
	mode    string // tls, smtps or ssl
	auth    string
	verify  bool
	tls     string // as to be written
	options []string
}

// relay reads what follows relay.
func (r *reader) relay(u *rule) {
	u.relay, u.base = true, "relay"
	a := &relayAction{}
	if r.accept("via") {
		r.via(u, a)
	}
	seen := make(map[string]bool)
	for !r.failed && r.peek().word("as", "source", "hostname", "hostnames", "helo", "pki", "ca", "certificate",
		"auth", "enable", "verify", "backup", "tls", "port", "smtps", "ssl", "secure") {
		t := r.take()
		r.once(seen, t, t.Text)
		r.relayOption(u, a, t)
	}
	if r.failed {
		return
	}
	if a.url.Text != "" {
		r.host(a)
	}
	u.action = words("relay", a.hosts, option("auth", a.auth), a.tls, strings.Join(a.options, " "))
}

// via reads where to: a URL, or a map of URLs.
func (r *reader) via(u *rule, a *relayAction) {
	u.base = "smarthost"
	if next := r.peek(); next.str() && !next.word("map") {
		a.url = r.take()
		return
	}
	t := r.table("a relay URL in quotes", true)
	a.hosts = "host " + t.text
	if t.kind == config.Map {
		a.hosts = "domain " + t.text
	}
	r.tr.note(t.pos, "the certificates of relays of %s are verified where their URL asks for tls or ssl; add \"tls no-verify\" to the action if they cannot be", t.text)
}

// relayOption reads the value of one option.
func (r *reader) relayOption(u *rule, a *relayAction, t tok) {
	add := func(text string) { a.options = append(a.options, text) }
	switch t.Text {
	case "as":
		add("mail-from " + r.str("an address").render(r.tr.fullAddress))
	case "source":
		add("src " + r.table("a table of addresses", false).text)
	case "hostname":
		add("helo " + r.str("a host name").render(nil))
	case "hostnames", "helo":
		add("helo-src " + r.table("a table", true).text)
	case "pki", "ca":
		add(t.Text + " " + r.str("a name").render(nil))
	case "certificate":
		pki, declare := r.tr.needCertificate(r.str("a name of a certificate").Text)
		add("pki " + pki)
		for _, line := range declare {
			r.tr.later(func() { r.tr.out.add(t.Pos, line) })
		}
	case "auth":
		a.auth = r.table("a table", true).text
	case "enable":
		if !r.accept("auth") {
			r.unexpected("auth")
		}
		a.auth = "<secrets>" // the map had to have this name
	case "verify":
		a.verify = true
	case "backup":
		u.base = "backup"
		text := "backup"
		if next := r.peek(); next.str() && !(next.Kind == config.Word && among(next.Text, optionWords)) {
			text += " mx " + r.take().render(nil)
		}
		add(text)
	case "port":
		a.port = r.port()
	case "smtps", "ssl", "secure":
		a.mode = t.Text
	case "tls":
		if a.url.Text != "" {
			a.mode = "tls"
			return
		}
		if a.tls = "tls no-verify"; r.accept("verify") {
			a.tls = "tls"
		}
	}
}

// port takes the number or name of a port.
func (r *reader) port() string {
	t := r.take()
	if t.Kind == config.Number {
		return t.Text
	}
	known := map[string]int{"smtp": 25, "smtps": 465, "ssmtp": 465, "submission": 587}
	n := known[t.Text]
	if n == 0 && r.tr.opts.LookupService != nil && t.str() {
		p, _ := r.tr.opts.LookupService(t.Text)
		n = int(p)
	}
	if n == 0 {
		r.fail(t.Pos, "invalid port %q: write a number", cut(t.Text))
	}
	return strconv.Itoa(n)
}

// fullAddress completes an address by the name of this host, as the language did.
func (tr *translator) fullAddress(address string) string {
	if strings.Contains(address, "@") || address == "" || tr.opts.ServerName == "" {
		return address
	}
	return address + "@" + tr.opts.ServerName
}

// scheme is what stood before "://" of a relay URL.
type scheme struct {
	today  []string // tried one after another
	secure bool     // TLS was required; the certificate was verified only by "verify"
	auth   bool
}

// schemes are those of all versions before 6.4, and "" for none. TLS was used where
// it was offered under the one that requires it today.
var schemes = map[string]scheme{
	"":            {today: []string{"smtp"}},
	"smtp":        {today: []string{"smtp"}},
	"smtp+tls":    {today: []string{"smtp"}},
	"lmtp":        {today: []string{"lmtp"}},
	"tls":         {today: []string{"smtp+tls"}, secure: true},
	"tls+auth":    {today: []string{"smtp+tls"}, secure: true, auth: true},
	"smtps":       {today: []string{"smtps"}, secure: true},
	"smtps+auth":  {today: []string{"smtps"}, secure: true, auth: true},
	"ssl":         {today: []string{"smtps", "smtp+tls"}, secure: true},
	"ssl+auth":    {today: []string{"smtps", "smtp+tls"}, secure: true, auth: true},
	"secure":      {today: []string{"smtps", "smtp+tls"}, secure: true},
	"secure+auth": {today: []string{"smtps", "smtp+tls"}, secure: true, auth: true},
}

// host writes the URL of a relay as it is understood today.
func (r *reader) host(a *relayAction) {
	name, rest, found := strings.Cut(a.url.Text, "://")
	if !found {
		name, rest = a.mode, a.url.Text
		if a.auth != "" && a.mode != "" {
			name += "+auth"
		}
		if a.port != "" {
			rest += ":" + a.port
		}
	}
	s, known := schemes[strings.ToLower(name)]
	switch {
	case !known:
		r.fail(a.url.Pos, "relay URL %q: unknown scheme %q", cut(a.url.Text), cut(name))
		return
	case strings.ContainsRune(rest, '%'):
		r.fail(a.url.Pos, "relay URL %q: format specifiers are not expanded any more; write a table of hosts by domain and \"relay domain <table>\" in a converted file", cut(a.url.Text))
		return
	case s.auth && a.auth == "":
		r.fail(a.url.Pos, "relay URL %q: authentication needs \"auth <table>\"", cut(a.url.Text))
		return
	case a.verify && !s.secure:
		r.fail(a.url.Pos, "relay URL %q: verify needs a scheme that requires TLS, like tls://", cut(a.url.Text))
		return
	}
	if s.auth && !strings.Contains(rest, "@") {
		rest = hostOf(rest) + "@" + rest // credentials went by the name of the host
	}
	urls := make([]string, len(s.today))
	for i, today := range s.today {
		urls[i] = today + "://" + rest
	}
	url := strings.Join(urls, ", ")
	if _, err := nexthop.ParseURLs(url); err != nil {
		r.fail(a.url.Pos, "relay URL %q: %v", cut(a.url.Text), err)
		return
	}
	if s.secure && !a.verify {
		a.tls = "tls no-verify"
	}
	if !s.auth && a.auth != "" {
		a.auth = ""
		r.tr.note(a.url.Pos, "auth is left out: it was looked at only for a relay URL with a scheme like tls+auth://")
	}
	a.hosts = "host " + a.url.render(func(string) string { return url })
}

// hostOf returns the host of what stands behind a scheme.
func hostOf(s string) string {
	if at := strings.IndexByte(s, ']'); at > 0 {
		return s[:at+1]
	}
	host, _, _ := strings.Cut(s, ":")
	return host
}
