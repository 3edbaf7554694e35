package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"testing"
)

func TestMatchConditionsDecide(t *testing.T) {
	t.Parallel()
	m := startMTA(t, prelude+`
table everybody { "@example.org" = owner }
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any helo "bad.example.net" for domain "example.org" reject
match from any helo regex "^dyn-[0-9]+" for domain "example.org" reject
match from any mail-from "spam@example.net" for domain "example.org" reject
match from any mail-from regex "^news.*@" for domain "example.org" reject
match from any rcpt-to "closed@example.org" for domain "example.org" reject
match !from src { 127.0.0.1, "::1" } for domain "example.org" reject
match tls from any for domain "example.org" reject
match auth from any for domain "example.org" reject
match tag "other" from any for domain "example.org" reject
match from any for domain regex "^(sub[.])?example[.]org$" action "keep"
`)
	for _, tt := range []struct{ name, helo, sender, rcpt, want string }{
		{"nothing speaks against it", "c.example.net", "a@example.net", "x@example.org", "^250"},
		{"helo", "bad.example.net", "a@example.net", "x@example.org", "^550"},
		{"helo by pattern", "dyn-17.example.net", "a@example.net", "x@example.org", "^550"},
		{"sender", "c.example.net", "spam@example.net", "x@example.org", "^550"},
		{"sender by pattern", "c.example.net", "newsletter@example.net", "x@example.org", "^550"},
		{"recipient", "c.example.net", "a@example.net", "closed@example.org", "^550"},
		{"no rule", "c.example.net", "a@example.net", "x@sub.example.com", "^550"},
	} {
		c := m.dialogue("^220", "EHLO "+tt.helo, "^250", "MAIL FROM:<"+tt.sender+">", "^250")
		if err := c.PrintfLine("RCPT TO:<%s>", tt.rcpt); err != nil {
			t.Fatal(err)
		}
		code, text, _ := c.ReadResponse(0)
		if got := fmt.Sprint(code); !strings.HasPrefix(tt.want, "^"+got) {
			t.Errorf("%s: %d %s, want %s", tt.name, code, text, tt.want)
		}
		c.Close()
	}
	m.wait(`failed-command command="RCPT TO:<closed@example\.org>" .* rule=\S+/smtpd\.conf:11`)
}

func TestListenerOptions(t *testing.T) {
	t.Parallel()
	_, masked := freePort(t)
	_, filtered := freePort(t)
	_, proxied := freePort(t)
	_, proxied2 := freePort(t)
	m := startMTA(t, strings.NewReplacer("MASKED", masked, "FILTERED", filtered, "PROXIED2", proxied2, "PROXIED", proxied).Replace(keepAll+`
table names { "127.0.0.1" = "by-address.example.org" }
filter "nothing" phase connect match rdns disconnect "550 no"
listen on $host port MASKED hostnames <names> mask-src no-dsn tag "masked"
listen on $host port FILTERED filter "nothing"
listen on $host port PROXIED proxy from { 127.0.0.1 }
listen on $host port PROXIED2 proxy-v2
match tag "masked" from any for domain "tagged.example" reject
match from src "192.0.2.0/24" for domain "proxied.example" reject
`))
	host, _, _ := net.SplitHostPort(m.addr)
	other := func(port string) *mta { return &mta{t: t, addr: net.JoinHostPort(host, port)} }

	other(masked).dialogue("^220 by-address.example.org", "EHLO client.example.net", `^250 by-address\.example\.org`,
		"MAIL FROM:<a@example.net> RET=HDRS", "^5", "MAIL FROM:<a@example.net>", "^250", "RCPT TO:<x@tagged.example>", "^550", "RCPT TO:<x@example.org>", "^250",
		"DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250", "QUIT", "^221")
	m.wait(`mda delivery .*result=Ok`)
	if mails := m.mails(); len(mails) != 1 || strings.Contains(mails[0], "127.0.0.1") || strings.Contains(mails[0], "client.example.net") {
		t.Errorf("the message shows its source: %q", mails)
	}

	other(filtered).dialogue(`^550 5\.0\.0 no$`)

	for _, tt := range []struct {
		name, port, header string
		taken              bool
	}{
		{"version 1", proxied, "PROXY TCP4 192.0.2.7 127.0.0.1 1234 25\r\n", true},
		{"version 2", proxied, v2Header, true},
		{"version 2 only", proxied2, v2Header, true},
		{"version 1 where version 2 is wanted", proxied2, "PROXY TCP4 192.0.2.7 127.0.0.1 1234 25\r\n", false},
		{"none", proxied, "EHLO client.example.net\r\n", false},
	} {
		conn, err := net.Dial("tcp", net.JoinHostPort(host, tt.port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(tt.header)); err != nil {
			t.Fatal(err)
		}
		c := textproto.NewConn(conn)
		if tt.taken {
			m.expect(c, tt.name, "^220")
			m.wait(`smtp event=proxy address=192\.0\.2\.7`)
			m.talk(c, "EHLO client.example.net", "^250", "MAIL FROM:<a@example.net>", "^250", "RCPT TO:<x@proxied.example>", "^550")
			m.wait(`failed-command command="RCPT TO:<x@proxied\.example>" .* rule=\S+:1[0-9]`)
		} else if line, err := c.ReadLine(); err == nil {
			t.Errorf("%s: got %q, want the end of the connection", tt.name, line)
		}
		c.Close()
	}
}

// v2Header is a PROXY header of version 2 for a client at 192.0.2.7.
const v2Header = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x04\xd2\x00\x19"

func TestLogLinesInJSON(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll, "-o", "json", "-v", "-T", "all")
	m.send("x@example.org", "hello")
	m.wait(`"result":"Ok"`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<\"a\\\"\x01b\"@example.net>", "^[25]", "RCPT TO:<nobody@example.com>", "^5")
	m.wait(`"failed-command"|failed-command`)
	m.stop()
	for _, line := range m.lines() {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%q: %v", line, err)
		} else if v["time"] == nil {
			t.Errorf("%q has no time", line)
		}
	}
}
