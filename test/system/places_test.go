//go:build system

package system

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// places asks a table in every place that takes one. TABLES declares them.
const places = `pki site cert "$dir/mx.crt"
pki site key "$dir/mx.key"
ca site cert "$dir/mx.crt"
TABLES
filter "names" phase ehlo match helo <badnames> reject "550 5.7.1 not by this name"
filter "addresses" phase rcpt-to match rcpt-to <badrcpts> reject "550 5.7.1 not to this address"
listen on $host tls pki site auth-optional <logins> senders <permitted> hostnames <names> tag "entry" filter { "names", "addresses" }
listen on $host port 587 tls-require pki site auth <logins> hostname mx.example.org tag "inner"
listen on socket
action "users" maildir "$dir/home/%{user.username}/Maildir" alias <aliases>
action "addresses" maildir "$dir/home/%{user.username}/Maildir" virtual <virtuals> userbase <users>
action "by domain" relay domain <hosts> src <sources> helo-src <names> auth <logins> ca site
action "by host" relay host <urls> src <sources> helo-src <names> auth <logins> ca site
match tag <tags> from src <clients> for domain <ours> action "users"
match tag <tags> helo <helos> mail-from <correspondents> rcpt-to <rcpts> from src <clients> for any action "addresses"
match auth <authors> tag "entry" from any for domain "example.com" action "by domain"
match auth <authors> tag "entry" from any for domain "example.edu" action "by host"
match tag "inner" auth from src <sources> for any action "users"
`

// content is what the tables of places hold: rows of key and value, or keys.
func content(d *daemon) map[string][]string {
	net := strings.TrimSuffix(d.host, ".1")
	uid, _ := ids(d.t, "alice")
	url := "smtp+tls://out@" + d.host + ":587"
	return map[string][]string{
		"aliases": {"team alice, bob", "someone alice", "other bob"}, "virtuals": {"list@example.net alice"},
		"users": {fmt.Sprintf("alice %d:%d:%s", uid, uid, d.path("home/alice"))}, "logins": {"relay relay:" + passwordHash, "out relay:secret"},
		"permitted": {"relay relay@example.org, @example.com"}, "names": {d.host + " named.example.org", net + ".9 out.example.org"},
		"hosts": {"example.com " + url}, "urls": {url}, "sources": {net + ".9"}, "clients": {net + ".7"}, "ours": {"example.org"},
		"tags": {"entry"}, "helos": {"good.example.net"}, "correspondents": {"known@example.net"}, "rcpts": {"list@example.net"}, "authors": {"relay"},
		"badnames": {"bad.example.net"}, "badrcpts": {"nobody@example.org"},
	}
}

// backends make the tables, each the part of a declaration behind the name.
var backends = map[string]func(d *daemon, name string, rows []string) string{
	"file": func(d *daemon, name string, rows []string) string {
		d.write(name, strings.Join(rows, "\n")+"\n", "", 0o600)
		return "file:" + d.path(name)
	},
	"db": func(d *daemon, name string, rows []string) string {
		d.write(name, strings.Join(rows, "\n")+"\n", "", 0o600)
		args := []string{d.path(name)}
		if !strings.Contains(rows[0], " ") {
			args = []string{"-t", "set", d.path(name)}
		}
		d.run("", "", "makemap", args...)
		return "db:" + d.path(name+".db")
	},
	"sqlite": func(d *daemon, name string, _ []string) string {
		if !exists(d.path("db")) {
			fillSQLite(d)
		}
		conf := "dbpath " + d.path("db/rows") + "\n"
		for _, s := range []string{"addrname", "alias", "credentials", "domain", "mailaddr", "mailaddrmap", "netaddr", "relayhost", "string", "userinfo"} {
			conf += "query_" + s + " SELECT value FROM " + name + " WHERE key = ?\n"
		}
		d.write("db/"+name+".conf", conf+"fetch_source SELECT value FROM "+name+"\nfetch_relayhost SELECT value FROM "+name+"\n", "_smtpd", 0o600)
		return "sqlite:" + d.path("db/"+name+".conf")
	},
	// The program of the tutorial.
	"program": func(d *daemon, name string, rows []string) string {
		need(d.t, "python3")
		page, err := os.ReadFile("../../docs/writing-a-table.md")
		if err != nil {
			d.t.Fatal(err)
		}
		_, program, ok := strings.Cut(string(page), "```python\n")
		program, _, ends := strings.Cut(program, "```\n")
		if !ok || !ends {
			d.t.Fatal("the tutorial has no program in Python")
		}
		d.write("rows.py", program, "", 0o755)
		d.write(name, strings.Join(rows, "\n")+"\n", "_smtpd", 0o400)
		return fmt.Sprintf("proc-exec %q", "/usr/bin/env python3 "+d.path("rows.py")+" "+d.path(name))
	},
}

// fillSQLite makes a database with a table of keys and values for each table, which is the
// table programs' alone.
func fillSQLite(d *daemon) {
	need(d.t, "python3")
	d.mkdir("db", "_smtpd", 0o700)
	var in strings.Builder
	for name, rows := range content(d) {
		for _, row := range rows {
			fmt.Fprintln(&in, name, row)
		}
	}
	d.run("", in.String(), "python3", "-c", `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for line in sys.stdin:
    table, key, *value = line.split(None, 2)
    db.execute("CREATE TABLE IF NOT EXISTS " + table + " (key TEXT, value TEXT)")
    db.execute("INSERT INTO " + table + " VALUES (?, ?)", (key, value[0].strip() if value else key))
db.commit()
`, d.path("db/rows"))
	d.own(d.path("db/rows"), "_smtpd", 0o600)
}

func TestEveryPlaceTakesEveryTable(t *testing.T) {
	t.Parallel()
	for backend, declare := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, "")
			d.certify()
			var tables []string
			for name, rows := range content(d) {
				tables = append(tables, "table "+name+" "+declare(d, name, rows))
			}
			slices.Sort(tables)
			d.configure(strings.Replace(places, "TABLES", strings.Join(tables, "\n"), 1))
			d.start()
			d.knownClientsSend()
			d.knownUsersSend()
		})
	}
}

// knownClientsSend tries the tables that mail from other hosts is judged by.
func (d *daemon) knownClientsSend() {
	t := d.t
	t.Helper()
	client := strings.TrimSuffix(d.host, ".1") + ".7"
	begin := func(from, helo, mail string) *conn {
		t.Helper()
		c := d.dialFrom(from)
		c.expect("the connection", "^220 named.example.org ")
		return c.talk("EHLO "+helo, "^250", "MAIL FROM:<"+mail+">", "^250")
	}
	end := []string{"DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250", "QUIT", "^221"}
	begin(client, "any.example.net", "s@example.net").talk("RCPT TO:<Team@Example.org>", "^250").talk(end...)
	d.mail("alice", 1)
	d.mail("bob", 1)
	begin(client, "good.example.net", "known@example.net").talk("RCPT TO:<list@example.net>", "^250").talk(end...)
	d.mail("alice", 2)
	for _, tt := range []struct{ why, from, helo, mail, rcpt string }{
		{"another client", d.host, "good.example.net", "known@example.net", "team@example.org"},
		{"another name", client, "any.example.net", "known@example.net", "list@example.net"},
		{"another sender", client, "good.example.net", "s@example.net", "list@example.net"},
		{"another recipient", client, "good.example.net", "known@example.net", "team@example.net"},
		{"a filter's recipient", client, "good.example.net", "known@example.net", "nobody@example.org"},
		{"nobody has logged in", client, "good.example.net", "known@example.net", "someone@example.com"},
	} {
		begin(tt.from, tt.helo, tt.mail).talk("RCPT TO:<"+tt.rcpt+">", "^550 5.7.1 ", "QUIT", "^221")
	}
	c := d.dialFrom(client)
	c.expect("the connection", "^220 ")
	c.talk("EHLO bad.example.net", "^550 5.7.1 not by this name")
}

// knownUsersSend tries the tables that users log in and relay by.
func (d *daemon) knownUsersSend() {
	t := d.t
	t.Helper()
	c := d.connect().talk("EHLO client.example.net", "^250", "STARTTLS", "^220")
	c.startTLS(d)
	c.talk("EHLO client.example.net", "^250", "AUTH PLAIN AHJlbGF5AHdyb25n", "^535", "AUTH PLAIN AHJlbGF5AHNlY3JldA==", "^235",
		"MAIL FROM:<elsewhere@example.org>", "^530 5.7.1 ", "MAIL FROM:<relay@example.org>", "^250",
		"RCPT TO:<someone@example.com>", "^250", "RCPT TO:<other@example.edu>", "^250",
		"DATA", "^354", "Subject: by a user\r\n\r\nx\r\n.", "^250", "QUIT", "^221")
	for _, m := range append(d.mail("alice", 3), d.mail("bob", 2)...) {
		if strings.Contains(m, "Subject: by a user") && !strings.Contains(m, "\nReceived: from out.example.org (") {
			t.Errorf("relayed under another name than helo-src has for the address:\n%s", m)
		}
	}
}
