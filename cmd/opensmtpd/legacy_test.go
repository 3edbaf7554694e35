package main

import (
	"net"
	"strings"
	"testing"
)

// mapsConf is of before OpenSMTPD 5.3: maps say which clients, which virtual users,
// which relays and which source addresses.
const mapsConf = `
map cmap source plain "DIR/clients"
map vmap { source plain "DIR/virtual" }
map amap { type hash
	source plain "DIR/users" }
map rmap source plain "DIR/relays"
map smap source plain "DIR/sources"
table owner { owner = $owner }
listen on $host port $port hostname mx.example.org

accept from map cmap for virtual map vmap relay via map rmap source map smap
accept from map cmap for virtual map amap userbase <owner> deliver to maildir $maildir
accept for domain "fwd.example.org" relay via map rmap
reject from all for all
`

// otherLoopback returns a second address of this host if there is one.
func otherLoopback(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return "127.0.0.1"
	}
	l.Close()
	return "127.0.0.2"
}

func TestConfigurationWithMapsRunsAsItDid(t *testing.T) {
	t.Parallel()
	far := startMTA(t, strings.NewReplacer(`"@example.org" = owner`, `"@" = owner`, `for domain "example.org"`, `for any`).Replace(keepAll))
	source := otherLoopback(t)
	near := newMTA(t, mapsConf)
	near.file("clients", "192.0.2.0/24\n127.0.0.1\n")
	near.file("virtual", "example.org: domain\ninfo@example.org: unused\n")
	near.file("users", "example.net: domain\none@example.net: owner\ntwo@example.net: x@fwd.example.org\n")
	near.file("relays", "smtp://"+far.addr+"\n")
	near.file("sources", source+"\n")
	near.start()
	near.wait(`smtpd\.conf:1: a configuration of before OpenSMTPD 6\.4: .*smtpctl config convert`)

	// A client of the map, a domain of the virtual map: relayed by the relay map,
	// from an address of the source map.
	near.send("info@example.org", "by way of maps")
	near.wait(`mta delivery .*to=<info@example\.org> .*source="` + source + `" .*result="Ok"`)
	far.wait(`to=<info@example\.org> .*result=Ok`)
	// Virtual users: one of this host, one elsewhere, to whom the rules apply again.
	near.send("one@example.net", "for a user")
	near.wait(`mda delivery .*to=<one@example\.net> .*result=Ok`)
	near.send("two@example.net", "for somebody elsewhere")
	near.wait(`mta delivery .*to=<x@fwd\.example\.org> .*result="Ok"`)
	far.wait(`to=<x@fwd\.example\.org> .*result=Ok`)
	if mails := near.mails(); len(mails) != 1 || !strings.Contains(mails[0], "for a user") {
		t.Errorf("the Maildir holds %q", mails)
	}
	near.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<three@example.net>", "^5", "RCPT TO:<x@example.com>", "^550", "QUIT", "^221")

	// The client is taken from its map. Rules are named by the lines of the original.
	near.file("clients", "192.0.2.0/24\n")
	near.hangUp()
	near.wait(`configuration reloaded`)
	near.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<info@example.org>", "^550", "RCPT TO:<one@example.net>", "^550", "QUIT", "^221")
}

func TestOldConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "table owner { owner = $owner }\nlisten on $host port $port\naccept for any userbase <owner> deliver to maildir $maildir\n")
	_, stderr, status := outputOf(t, m.command("-n"))
	if status != 0 || !strings.Contains(stderr, "smtpctl config convert") || !strings.HasSuffix(stderr, "configuration OK (pre-6.4 syntax, translated)\n") {
		t.Errorf("status %d, %s", status, stderr)
	}
	m.writeConf("listen on $host port $port\n\naccept for any relay via \"gopher://x\"\naccept for local alias <none> deliver to mbox\n")
	_, stderr, status = outputOf(t, m.command("-n"))
	if status != 1 || !strings.Contains(stderr, m.conf+`:3: relay URL "gopher://x": unknown scheme`) {
		t.Errorf("a URL that cannot be translated: status %d, %s", status, stderr)
	}
	m.writeConf("listen on $host port $port\n\n\naccept for local alias <none> deliver to mbox\n")
	_, stderr, status = outputOf(t, m.command("-n"))
	if status != 1 || !strings.Contains(stderr, m.conf+":4: unknown table <none>") {
		t.Errorf("a table that is missing: status %d, %s", status, stderr)
	}
}
