package config

import (
	"strings"
	"testing"
)

func TestCredentialIsAFileOfTheServiceManager(t *testing.T) {
	t.Parallel()
	const dir = "/run/credentials/smtpd.service"
	parse := func(text, dir string) (*Config, []*Error) {
		return Parse(Options{
			Path: "smtpd.conf", Credentials: dir,
			ReadFile:  func(string) ([]byte, error) { return []byte(text), nil },
			TableKind: func(string, string) (TableKind, error) { return Map, nil },
		})
	}
	const text = `pki mx.example.org cert "/etc/ssl/mx.crt" key credential:mx-key
ca upstream cert "credential:ca"
table secrets credential:relay-passwords
table other file:credential:more
queue encryption file credential:queue-key
action "a" maildir
match from any for local action "a"
`
	c, errs := parse(text, dir)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, tt := range []struct{ got, want string }{
		{c.PKIs[0].Cert, "/etc/ssl/mx.crt"}, {c.PKIs[0].Key, dir + "/mx-key"}, {c.CAs[0].Cert, dir + "/ca"},
		{c.Queue.KeyFile, dir + "/queue-key"},
	} {
		if tt.got != tt.want {
			t.Errorf("path %s, want %s", tt.got, tt.want)
		}
	}
	tables := map[string]string{}
	for _, table := range c.Tables {
		tables[table.Name] = table.Backend + " " + table.Path
	}
	if tables["secrets"] != "file "+dir+"/relay-passwords" || tables["other"] != "file "+dir+"/more" {
		t.Errorf("tables %v", tables)
	}
	if _, errs := parse(text, ""); len(errs) != 5 || !strings.Contains(errs[0].Error(), "no credential mx-key") {
		t.Errorf("without a service manager: %v, want 5 mistakes", errs)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../../etc/shadow", strings.Repeat("a", 256)} {
		if _, errs := parse("pki a.example.org key \"credential:"+bad+"\"\n", dir); len(errs) == 0 {
			t.Errorf("credential:%s is taken", bad)
		}
	}
}
