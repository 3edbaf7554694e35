package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

func TestKeysCannotLeaveTheirPlaceInTheFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ filter, want string }{
		{"(mail=%u)", `(mail=\2a\29\28uid=\2a)`},
		{"(mail=%s)", `(mail=\2a\29\28uid=\2a)`},
		{"(&(ou=%h)(mail=100%%%u))", `(&(ou=users)(mail=100%\2a\29\28uid=\2a))`},
		{"(mail=%x)", ""},
		{"(mail=%", ""},
	} {
		got, err := expand(tt.filter, "users", "*)(uid=*")
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("expand(%q) = %q, %v, want %q", tt.filter, got, err, tt.want)
		}
	}
}

func TestEntriesBecomeRows(t *testing.T) {
	t.Parallel()
	entry := func(dn string, attributes map[string][]string) *ldap.Entry { return ldap.NewEntry(dn, attributes) }
	both := []*ldap.Entry{
		entry("uid=a", map[string][]string{"mail": {"a@x", "b@x"}, "UID": {"a"}}),
		entry("uid=b", map[string][]string{"mail": {"c@x"}, "uid": {"b"}, "hash": {"h"}}),
	}
	for _, tt := range []struct {
		s          table.Service
		attributes []string
		want       string
	}{
		{table.Alias, []string{"mail"}, "a@x, b@x, c@x"},
		{table.Credentials, []string{"uid", "hash"}, "b:h"}, // the first entry has no hash
		{table.Domain, []string{"whatever"}, "uid=a"},
		{table.AddrName, []string{"uid"}, "a"},
	} {
		if got, err := remote.Value(tt.s, rowsOf(tt.s, query{attributes: tt.attributes}, both)); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.s, got, err, tt.want)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"url ldap.example.org\nalias_filter: (mail=%u)\nalias_attributes: uid\n":                          "",
		"url: ldap+tls://h\nauth_filter (uid=%u)\nuserinfo_filter (uid=%u)\nuserinfo_attributes a, b,c\n": "",
		"alias_filter: (mail=%u)\nalias_attributes: uid\n":                                                "url is missing",
		"url http://x\nalias_filter: (mail=%u)\nalias_attributes: uid\n":                                  "is none of",
		"url ldap://x\nalias_filter: (mail=%u\nalias_attributes: uid\n":                                   "alias_filter",
		"url ldap://x\nalias_filter: (mail=%u)\n":                                                         "alias_attributes is missing",
		"url ldap://x\ncredentials_filter: (uid=%u)\ncredentials_attributes: uid\n":                       "1 attributes, want 2",
		"url ldap://x\nalias_attributes: uid\n":                                                           "alias_filter is missing",
		"url ldap://x\nfetch_source_filter: (cn=out)\nfetch_source_attributes: ipHostNumber\n":            "",
		"url ldap://x\nfetch_source_filter: (cn=out)\n":                                                   "fetch_source_attributes is missing",
		"url ldap://x\nfetch_relayhost_filter: (cn=out\nfetch_relayhost_attributes: labeledURI\n":         "fetch_relayhost_filter",
	} {
		path := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tab, err := remote.Open("t", path, open)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			} else if err := tab.Close(); err != nil {
				t.Error(err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestDirectoryThatIsAwayIsATemporaryFailure(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(path, []byte("url ldapi://%2fnowhere%2fldapi\nalias_filter (mail=%u)\nalias_attributes uid\nauth_filter (uid=%u)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := remote.Open("t", path, open)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []table.Service{table.Alias, table.Auth} {
		if _, err := tab.Lookup(t.Context(), s, "a:b"); err == nil || errors.Is(err, table.ErrNotFound) {
			t.Errorf("%s: %v, want a temporary error", s, err)
		}
	}
	// An empty password must never reach the server, which would take it for nobody's.
	if _, err := tab.Lookup(t.Context(), table.Auth, "alice:"); !errors.Is(err, table.ErrNotFound) {
		t.Errorf("an empty password: %v, want ErrNotFound", err)
	}
	if !slices.Equal([]table.Service{table.Alias, table.Auth}, tab.Offers()) {
		t.Errorf("services: %v", tab.Offers())
	}
}
