package finder

import (
	"errors"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

// tablesOf makes tables from rows "key" or "key=value", by name.
func tablesOf(t *testing.T, all map[string][]string) Tables {
	t.Helper()
	made := make(map[string]table.Table)
	for name, rows := range all {
		var entries []static.Entry
		kind := static.List
		for _, r := range rows {
			key, value, isMap := strings.Cut(r, "=")
			if isMap {
				kind = static.Map
			}
			entries = append(entries, static.Entry{Key: key, Value: value})
		}
		tab, err := static.New(kind, entries, static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		made[name] = tab
	}
	return func(name string) table.Table {
		if made[name] == nil {
			return nil
		}
		return made[name]
	}
}

func TestRelayAction(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{DANE: true, STS: fixed{}})
	tables := tablesOf(t, map[string][]string{
		"one":       {"smtp://smart1.example:2525"},
		"equal":     {"smart1.example", "smart2.example"},
		"failover":  {"smtp://smart1.example, smtp://smart2.example"},
		"mixed":     {"smart1.example,plain.example", "smart2.example"},
		"halfgone":  {"none.example", "smart2.example"},
		"mx":        {"mx://one.example:26"},
		"address":   {"smtp+tls://isp@[192.0.2.11]"},
		"local":     {"smtp+notls://localhost:10025"},
		"ours":      {"mail.us.example"},
		"bydomain":  {"plain.example=smtps://isp@smart1.example", "text.example=smart2.example"},
		"secrets":   {"isp=anna:se:cret"},
		"signed":    {"good.example"},
		"signed587": {"good.example:587"},
		"verified":  {"smtp+tls://good.example"},
	})
	for _, tt := range []struct {
		name   string
		opts   policy.RelayOptions
		domain string
		hosts  string
		secure string
	}{
		{"by MX", policy.RelayOptions{}, "plain.example", "plain.example 192.0.2.3", "plain.example opportunistic no-policy-found"},
		{"tls", policy.RelayOptions{TLS: "required"}, "plain.example", "plain.example 192.0.2.3", "plain.example verified for plain.example no-policy-found"},
		{"tls no-verify", policy.RelayOptions{TLS: "no-verify"}, "plain.example", "plain.example 192.0.2.3", "plain.example encrypted no-policy-found"},
		{"smarthost", policy.RelayOptions{Host: "one"}, "null.example", "smart1.example 192.0.2.11 port 2525", "smart1.example opportunistic"},
		{"smarthost with tls", policy.RelayOptions{Host: "one", TLS: "required"}, "x", "smart1.example 192.0.2.11 port 2525", "smart1.example verified for smart1.example"},
		{"equal smarthosts", policy.RelayOptions{Host: "equal"}, "x", "smart1.example 192.0.2.11, smart2.example 192.0.2.12", "smart1.example opportunistic; smart2.example opportunistic"},
		{"one after the other", policy.RelayOptions{Host: "failover"}, "x", "smart1.example 192.0.2.11 | smart2.example 192.0.2.12", "smart1.example opportunistic; smart2.example opportunistic"},
		{"both", policy.RelayOptions{Host: "mixed"}, "x", "smart1.example 192.0.2.11, smart2.example 192.0.2.12 | plain.example 192.0.2.3",
			"smart1.example opportunistic; smart2.example opportunistic; plain.example opportunistic"},
		{"one of two is gone", policy.RelayOptions{Host: "halfgone"}, "x", "smart2.example 192.0.2.12", "smart2.example opportunistic"},
		{"MX of a smarthost", policy.RelayOptions{Host: "mx"}, "x", "mx1.one.example 2001:db8::1 192.0.2.1 port 26, mx2.one.example 192.0.2.2 port 26 | backup.example 192.0.2.99 port 26", ""},
		{"address", policy.RelayOptions{Host: "address", Auth: "secrets"}, "x", "192.0.2.11 192.0.2.11", "192.0.2.11 verified for 192.0.2.11 sni "},
		{"address without a check", policy.RelayOptions{Host: "address", Auth: "secrets", TLS: "no-verify"}, "x", "192.0.2.11 192.0.2.11", "192.0.2.11 encrypted sni "},
		{"this machine", policy.RelayOptions{Host: "local"}, "x", "localhost ::1 127.0.0.1 port 10025", "localhost never sni "},
		{"our own name is no loop", policy.RelayOptions{Host: "ours"}, "x", "mail.us.example 192.0.2.50", "mail.us.example opportunistic"},
		{"by domain", policy.RelayOptions{Domain: "bydomain", Auth: "secrets"}, "PLAIN.example", "smart1.example 192.0.2.11 port 465", "smart1.example verified implicit for smart1.example"},
		{"DANE of a smarthost", policy.RelayOptions{Host: "signed"}, "x", "good.example 192.0.2.1", "good.example dane for good.example by 3.1.1 tlsa"},
		{"by its port", policy.RelayOptions{Host: "signed587"}, "x", "good.example 192.0.2.1 port 587", "good.example dane for good.example by 2.1.2 tlsa"},
		{"whatever the host says", policy.RelayOptions{Host: "signed", TLS: "opportunistic"}, "x", "good.example 192.0.2.1", "good.example opportunistic"},
		{"DANE against the URL", policy.RelayOptions{Host: "verified", TLS: "dane"}, "x", "good.example 192.0.2.1", "good.example dane for good.example by 3.1.1 tlsa"},
		{"operator vouches", policy.RelayOptions{Host: "one", TLS: "sts"}, "x", "smart1.example 192.0.2.11 port 2525", "smart1.example verified for smart1.example"},
		{"only one family", policy.RelayOptions{Family: "only inet4"}, "one.example", "mx1.one.example 192.0.2.1, mx2.one.example 192.0.2.2 | backup.example 192.0.2.99", ""},
		{"one family before the other", policy.RelayOptions{Family: "prefer inet4"}, "one.example",
			"mx1.one.example 192.0.2.1 2001:db8::1, mx2.one.example 192.0.2.2 | backup.example 192.0.2.99", ""},
		{"URL that says how to verify", policy.RelayOptions{Host: "verified"}, "x", "good.example 192.0.2.1", "good.example verified for good.example"},
	} {
		h, err := f.Resolve(t.Context(), Request{Options: &tt.opts, Family: nexthop.AnyFamily, Domain: tt.domain}, tables)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := show(h); got != tt.hosts {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.hosts)
		}
		if got := protection(h); tt.secure != "" && got != tt.secure {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.secure)
		}
		for i, g := range h.Groups {
			for _, host := range g {
				if tt.opts.Host != "" && int(host.Preference) != i {
					t.Errorf("%s: %s in group %d has preference %d", tt.name, host.Name, i, host.Preference)
				}
				if (host.Label != "") != (host.Auth != nil) || host.Auth != nil && *host.Auth != (nexthop.Credentials{User: "anna", Password: "se:cret"}) {
					t.Errorf("%s: credentials %+v", tt.name, host.Auth)
				}
			}
		}
	}
}

func TestWhatIsWrongWithASmarthostIsTemporary(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{})
	tables := tablesOf(t, map[string][]string{
		"gone":     {"none.example"},
		"empty":    {},
		"bad":      {"http://x"},
		"label":    {"smtps://isp@smart1.example"},
		"other":    {"smtps://other@smart1.example"},
		"clear":    {"smtp+notls://smart1.example"},
		"six":      {"six.example"},
		"plain":    {"smart1.example"},
		"address":  {"192.0.2.11"},
		"null":     {"mx://null.example"},
		"loop":     {"mx://us.example"},
		"bydomain": {"plain.example=smart1.example"},
		"secrets":  {"isp=x:", "ok=a:b"},
	})
	for _, tt := range []struct {
		name string
		opts policy.RelayOptions
		want string
	}{
		{"does not exist", policy.RelayOptions{Host: "gone"}, "451 4.4.4 Host not found"},
		{"no such table", policy.RelayOptions{Host: "x"}, "451 4.3.5 Cannot retrieve smarthost"},
		{"empty table", policy.RelayOptions{Host: "empty"}, "451 4.3.5 Cannot retrieve smarthost"},
		{"not in the table", policy.RelayOptions{Domain: "bydomain"}, "451 4.3.5 Cannot retrieve smarthost"},
		{"not a URL", policy.RelayOptions{Host: "bad"}, "451 4.3.5 Cannot parse smarthost"},
		{"label without auth", policy.RelayOptions{Host: "label"}, "451 4.3.5 No auth table for relaying"},
		{"half of credentials", policy.RelayOptions{Host: "label", Auth: "secrets"}, "451 4.3.5 Could not retrieve credentials"},
		{"no credentials", policy.RelayOptions{Host: "other", Auth: "secrets"}, "451 4.3.5 Could not retrieve credentials"},
		{"no credentials table", policy.RelayOptions{Host: "label", Auth: "x"}, "451 4.3.5 Could not retrieve credentials"},
		{"no TLSA records", policy.RelayOptions{Host: "plain", TLS: "dane"}, "451 4.7.5 No mail host of the domain can be reached securely"},
		{"DANE of an address", policy.RelayOptions{Host: "address", TLS: "dane"}, "451 4.7.5 No mail host of the domain can be reached securely"},
		{"TLS demanded and excluded", policy.RelayOptions{Host: "clear", TLS: "required"}, "451 4.7.5 TLS required for relaying"},
		{"family", policy.RelayOptions{Host: "six"}, "451 4.4.4 Address family mismatch on smarthost"},
		{"null MX", policy.RelayOptions{Host: "null"}, "451 4.1.10 Domain does not accept mail"},
		{"loop", policy.RelayOptions{Host: "loop"}, "451 4.4.6 Mail for this domain loops back to this host"},
	} {
		h, err := f.Resolve(t.Context(), Request{Options: &tt.opts, Family: nexthop.Only4, Domain: "text.example"}, tables)
		e, ok := errors.AsType[*smtp.Error](err)
		if !ok || e.Reply() != tt.want {
			t.Errorf("%s: %+v, %v; want %s", tt.name, h, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "x:") {
			t.Errorf("%s: %q tells the credentials", tt.name, err)
		}
	}
}

func TestConnectionsThatMayNotBeSharedHaveDifferentKeys(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{})
	tables := tablesOf(t, map[string][]string{
		"a": {"smart1.example", "smart2.example"}, "b": {"smart1.example"}, "tls": {"smtp+tls://smart1.example"},
	})
	seen := make(map[string]string)
	for name, o := range map[string]policy.RelayOptions{
		"mx": {}, "mx tls": {TLS: "required"}, "mx no-verify": {TLS: "no-verify"}, "backup": {Backup: true},
		"backup of": {Backup: true, BackupName: "x"}, "a": {Host: "a"}, "b": {Host: "b"}, "tls": {Host: "tls"}, "a tls": {Host: "a", TLS: "required"},
	} {
		h, err := f.Resolve(t.Context(), Request{Options: &o, Family: nexthop.AnyFamily, Domain: "one.example"}, tables)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[h.Key]; ok {
			t.Errorf("%q and %q share %q", name, other, h.Key)
		}
		seen[h.Key] = name
	}
	one, err1 := f.Resolve(t.Context(), Request{Options: &policy.RelayOptions{Host: "a"}, Family: nexthop.AnyFamily, Domain: "one.example"}, tables)
	two, err2 := f.Resolve(t.Context(), Request{Options: &policy.RelayOptions{Host: "a"}, Family: nexthop.AnyFamily, Domain: "plain.example"}, tables)
	if err := errors.Join(err1, err2); err != nil || one.Key != two.Key {
		t.Errorf("two domains behind one smarthost: keys %q and %q, %v", one.Key, two.Key, err)
	}
}

func TestCredentialsOfALabel(t *testing.T) {
	t.Parallel()
	tab := tablesOf(t, map[string][]string{"c": {"a=user:pass:word", "b=secret", "long=" + strings.Repeat("x", 2048)}})("c")
	for label, want := range map[string]nexthop.Credentials{
		"a": {User: "user", Password: "pass:word"},
		"b": {User: "b", Password: "secret"},
	} {
		if got, err := Credentials(t.Context(), tab, label); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", label, got, err, want)
		}
	}
	for _, label := range []string{"long", "none"} {
		if got, err := Credentials(t.Context(), tab, label); err == nil {
			t.Errorf("%s: %+v, want an error", label, got)
		}
	}
}
