//go:build system

package system

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/opensmtpd/opensmtpd/internal/dnstest"
)

// others is the directory where Debian's packages of filters put their programs.
const others = "/usr/libexec/opensmtpd/"

// needFilter skips a test of one of them that is not installed.
func needFilter(t *testing.T, name string) {
	t.Helper()
	if !exists(others + name) {
		t.Skipf("the package opensmtpd-%s is not installed", name)
	}
}

// listening waits for a server at a port of the daemon's address.
func (d *daemon) listening(port string) {
	d.t.Helper()
	d.await("a server on port "+port, func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort(d.host, port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// signingKey writes a key for DKIM that a user can read, and returns the text of its
// DNS record.
func (d *daemon) signingKey(owner string) string {
	d.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		d.t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		d.t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	d.write("dkim.key", string(pem.EncodeToMemory(block)), owner, 0o400)
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)
}

// signedBy tells whether a message has one signature, which is valid.
func signedBy(mail, domain, record string) error {
	found, err := dkim.VerifyWithOptions(strings.NewReader(strings.ReplaceAll(mail, "\n", "\r\n")), &dkim.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) {
			if name != "test._domainkey."+domain {
				return nil, &net.DNSError{Name: name, IsNotFound: true}
			}
			return []string{record}, nil
		},
	})
	switch {
	case err != nil:
		return err
	case len(found) != 1:
		return fmt.Errorf("%d signatures, want 1", len(found))
	}
	return found[0].Err
}

// letter is a message of sender@example.net to alice@example.org.
func letter(subject, text string) string {
	return "From: \"A | B\" <sender@example.net>\nTo: <alice@example.org>\nDate: Tue, 24 Nov 2026 10:00:00 +0000\n" +
		"Message-ID: <" + subject + "@example.net>\nSubject: " + subject + "\nMIME-Version: 1.0\n" +
		"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n" + text
}

// Debian's opensmtpd-filter-dkimsign, OpenDKIM behind filter-milter, and our own.
func TestSignaturesOfFiltersAreValid(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		filter string
		start  func(*daemon)
	}{
		"filter-dkimsign of others": {`filter "sign" proc-exec "` + others + `filter-dkimsign -d example.net -s test -k $dir/dkim.key" user carol`,
			func(d *daemon) { needFilter(d.t, "filter-dkimsign") }},
		"OpenDKIM":        {`filter "sign" proc-exec "filter-milter inet:8891@$host"`, func(d *daemon) { d.startOpenDKIM() }},
		"filter-dkimsign": {`filter "sign" proc-exec "filter-dkimsign -d example.net -s test -k $dir/dkim.key" user carol`, func(*daemon) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, tt.filter+"\nlisten on $host hostname mx.example.org filter \"sign\"\n"+toMaildir)
			record := d.signingKey("carol")
			tt.start(d)
			d.start()
			bodies := awkwardBodies()
			for i, text := range bodies {
				d.send(letter(fmt.Sprintf("signed-%d", i), text), "alice@example.org")
			}
			mails := d.mail("alice", len(bodies))
			for i, text := range bodies {
				unchanged(t, mails, fmt.Sprintf("signed-%d", i), text)
			}
			for _, m := range mails {
				if err := signedBy(m, "example.net", record); err != nil {
					t.Errorf("%v:\n%.1500s", err, m)
				}
			}
		})
	}
}

const openDKIM = `
Domain example.net
Selector test
KeyFile $dir/dkim.key
Socket inet:8891@$host
Mode s
Canonicalization simple/simple
InternalHosts 0.0.0.0/0
UserID carol
RequireSafeKeys no
Background no
Syslog no
`

// startOpenDKIM starts a milter that signs, on port 8891; the result kills it.
func (d *daemon) startOpenDKIM() (kill func()) {
	need(d.t, "opendkim")
	d.write("opendkim.conf", d.expand(openDKIM), "", 0o644)
	kill = background(d.t, "opendkim", "-f", "-x", d.path("opendkim.conf"))
	d.listening("8891")
	return kill
}

// A milter is killed and started again under load. Mail waits for it, or passes
// unsigned where the filter is told so; none is lost.
func TestMilterMayGoAwayUnderLoad(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		t.Run(fmt.Sprintf("open=%v", open), func(t *testing.T) {
			t.Parallel()
			option := ""
			if open {
				option = "-o "
			}
			d := newDaemon(t, `filter "sign" proc-exec "filter-milter `+option+`inet:8891@$host"`+
				"\nlisten on $host hostname mx.example.org filter \"sign\"\n"+toMaildir)
			record := d.signingKey("carol")
			kill := d.startOpenDKIM()
			d.start()
			l := d.startLoad(8, 20, "alice@example.org")
			for range 3 {
				l.more(50)
				kill()
				if open {
					l.more(50)
				} else {
					d.wait(`failed-command .* result="451 4.7.1 Mail filter unavailable, try again later"`)
				}
				kill = d.startOpenDKIM()
			}
			l.more(50)
			if n := l.verify("alice"); n != 0 {
				t.Errorf("%d messages came twice", n)
			}
			signed, unsigned := 0, 0
			for _, m := range d.mails("alice") {
				if strings.Contains(m, "\nDKIM-Signature: ") {
					if err := signedBy(m, "example.net", record); err != nil {
						t.Fatalf("%v:\n%.1500s", err, m)
					}
					signed++
				} else {
					unsigned++
				}
			}
			refusals := strings.Join(l.refusals(), "\n")
			if open && (unsigned == 0 || refusals != "") || !open && (unsigned != 0 || refusals != "451 4.7.1 Mail filter unavailable, try again later") ||
				signed == 0 || l.broken != 0 {
				t.Errorf("%d messages signed, %d not; %d sessions broken; refusals: %s", signed, unsigned, l.broken, refusals)
			}
		})
	}
}

// gtube is a text that rspamd and others refuse, so that they can be tried.
const gtube = "JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

const rspamdConf = `
options {
	pidfile = "$dir/rspamd/pid"; dbdir = "$dir/rspamd"; hs_cache_dir = "$dir/rspamd"; rrd = "";
	filters = ""; url_tld = "$dir/rspamd/tld"; enable_test_patterns = true; dns { nameserver = ["$host:53"]; }
}
lang_detection { languages_enabled = ["en"]; }
logging { type = "console"; level = "notice"; }
worker "normal" { bind_socket = "$host:11333"; count = 1; }
worker "rspamd_proxy" {
	bind_socket = "$host:11332"; count = 1; milter = yes; timeout = 60s; spam_header = "X-Spam";
	upstream "local" { default = yes; hosts = "$host:11333"; }
}
metric "default" { actions { reject = 15; add_header = 6; greylist = 4; } }
`

// Debian's rspamd, asked by opensmtpd-filter-rspamd and as a milter.
func TestRspamdDecides(t *testing.T) {
	t.Parallel()
	needFilter(t, "filter-rspamd")
	need(t, "rspamd")
	d := newDaemon(t, `filter "rspamd" proc-exec "`+others+`filter-rspamd -url http://$host:11333"
filter "milter" proc-exec "filter-milter inet:11332@$host"
listen on $host hostname mx.example.org filter "rspamd"
listen on $host port 2525 hostname mx.example.org filter "milter"
`+toMaildir)
	d.mkdir("rspamd", "carol", 0o755)
	d.write("rspamd/tld", "net\norg\n", "", 0o644)
	d.write("rspamd.conf", d.expand(rspamdConf), "", 0o644)
	d.start()
	background(t, "rspamd", "--no-fork", "--user=carol", "--group=carol", "--config="+d.path("rspamd.conf"))
	d.listening("11333")
	d.listening("11332")
	n := 0
	for _, port := range []string{"25", "2525"} {
		for _, tt := range []struct{ name, text, answer, header string }{
			{"ham", "hello", "^250 2.0.0", ""},
			{"marked", "Y" + gtube + "\nbye", "^250 2.0.0", "(?m)^X-Spam: (?i:yes)$"},
			{"refused", "X" + gtube + "\nbye", "^5.. .*(?i:gtube|spam)", ""},
		} {
			c := d.dialPort(port)
			c.talk("EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<alice@example.org>", "^250", "DATA", "^354",
				strings.ReplaceAll(letter(tt.name, tt.text), "\n", "\r\n")+"\r\n.", tt.answer, "QUIT", "^221")
			if !strings.HasPrefix(tt.answer, "^250") {
				continue
			}
			n++
			mails := d.mail("alice", n)
			head, text, _ := strings.Cut(mails[n-1], "\n\n")
			if strings.TrimSpace(text) != tt.text || tt.header == "" && strings.Contains(head, "\nX-Spam: ") {
				t.Errorf("port %s, %s:\n%s", port, tt.name, mails[n-1])
			}
			matches(t, "port "+port+", "+tt.name, head, tt.header)
		}
	}
}

const clamdConf = `
Foreground yes
DatabaseDirectory $dir/virus
TCPSocket 3310
TCPAddr $host
User carol
LogFile $dir/clamav/clamd.log
`

const clamavMilterConf = `
Foreground yes
MilterSocket inet:8892@$host
ClamdSocket tcp:$host:3310
OnInfected Reject
RejectMsg infected with %v
AddHeader Replace
User carol
LogFile $dir/clamav/milter.log
`

// ClamAV, which knows one virus, refuses it as a milter.
func TestClamAVRefusesAsMilter(t *testing.T) {
	t.Parallel()
	need(t, "clamd")
	need(t, "clamav-milter")
	d := newDaemon(t, `filter "clamav" proc-exec "filter-milter inet:8892@$host"`+
		"\nlisten on $host hostname mx.example.org filter \"clamav\"\n"+toMaildir)
	d.mkdir("clamav", "carol", 0o755)
	d.mkdir("virus", "carol", 0o755)
	d.write("virus/test.ndb", fmt.Sprintf("Test.Virus:0:*:%x\n", "a virus of the tests"), "", 0o644)
	d.write("clamd.conf", d.expand(clamdConf), "", 0o644)
	d.write("clamav-milter.conf", d.expand(clamavMilterConf), "", 0o644)
	d.start()
	background(t, "clamd", "--config-file="+d.path("clamd.conf"))
	d.listening("3310")
	background(t, "clamav-milter", "--config-file="+d.path("clamav-milter.conf"))
	d.listening("8892")
	d.send(letter("clean", "nothing of the kind"), "alice@example.org")
	matches(t, "clean message", d.mail("alice", 1)[0], `\nX-Virus-Status: Clean\n(.*\n)*\nnothing of the kind\n`)
	d.to("alice@example.org").talk("DATA", "^354", strings.ReplaceAll(letter("bad", "this is a virus of the tests"), "\n", "\r\n")+"\r\n.",
		"^550 5.7.1 infected with Test.Virus")
}

// Debian's opensmtpd-filter-senderscore asks the system's resolver, which is replaced.
func TestSenderscoreDecides(t *testing.T) {
	t.Parallel()
	needFilter(t, "filter-senderscore")
	d := newDaemon(t, `filter "score" proc-exec "`+others+`filter-senderscore -blockBelow 30 -junkBelow 60 -scoreHeader"`+
		"\nlisten on $host hostname mx.example.org filter \"score\"\n"+toMaildir)
	net4 := strings.TrimSuffix(d.host, "1")
	server := net4 + "53"
	records := ""
	for i, score := range []int{10, 50, 90} {
		b := strings.Split(fmt.Sprint(net4, 11+i), ".")
		records += fmt.Sprintf("%s.%s.%s.%s.score.senderscore.com. A 127.0.4.%d\n", b[3], b[2], b[1], b[0], score)
	}
	dnstest.StartAt(t, server+":53", records)
	d.write("resolv.conf", "nameserver "+server+"\n", "", 0o644)
	d.prepare = func(c *exec.Cmd) {
		c.Args = append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, d.path("resolv.conf")}, c.Args...)
		c.Path = need(t, "unshare")
	}
	d.start()
	d.dialFrom(net4+"11").expect("the connection", "^5[0-9][0-9] ")
	n := 0
	for source, want := range map[string]string{
		"12": `\nX-SenderScore: 50\nX-Spam: Yes\n`, "13": `\nX-SenderScore: 90\n`, "14": `\nSubject: from14\n`,
	} {
		c := d.connectFrom(net4 + source)
		c.talk("EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<alice@example.org>", "^250", "DATA", "^354",
			strings.ReplaceAll(letter("from"+source, "text"), "\n", "\r\n")+"\r\n.", "^250", "QUIT", "^221")
		n++
		m := d.mail("alice", n)[n-1]
		matches(t, "from "+source, m, want)
		if source == "14" && strings.Contains(m, "X-SenderScore") || source != "12" && strings.Contains(m, "\nX-Spam:") {
			t.Errorf("from %s:\n%s", source, m)
		}
	}
}

// filter-dnsbl asks the daemon's resolver, by the extension of the protocol. Where
// clients come from is told by a proxy, as none is asked about that is on this host.
func TestDNSBLAsksTheDaemonsResolver(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, `filter "bl" proc-exec "filter-dnsbl 'client bl.example.net'"`+
		"\nlisten on $host hostname mx.example.org proxy-v2 filter \"bl\"\n"+toMaildir)
	const listed, unlisted = "66.100.51.198.bl.example.net.", "67.100.51.198.bl.example.net."
	server := dnstest.Start(t, listed+" A 127.0.0.2\n"+listed+" TXT \"seen in a trap\"\n")
	d.args = []string{"-o", "resolver=" + server.Addr()}
	d.start()
	d.dialProxied(66).talk("MAIL FROM:<sender@example.net>", "^550 5.7.1 .*seen in a trap")
	d.dialProxied(67).talk("MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<alice@example.org>", "^250",
		"DATA", "^354", "Subject: welcome\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	matches(t, "message", d.mail("alice", 1)[0], "\nSubject: welcome\n")
	if server.Asked(unlisted, "A", "udp") == 0 {
		t.Errorf("the daemon's resolver was not asked for %s", unlisted)
	}
}

// dialProxied connects as a proxy, for a client in 198.51.100.0/24, and says hello.
func (d *daemon) dialProxied(last byte) *conn {
	c := d.dialFrom("")
	c.raw("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + string([]byte{198, 51, 100, last, 198, 51, 100, 1, 4, 1, 0, 25}))
	c.expect("the connection", "^220 ")
	return c.talk("EHLO client.example.net", "^250")
}

// SPF asks the daemon's resolver for names that hosts do not have, and for all names of
// a client.
func TestSPFByTheDaemonsResolver(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, `filter "auth" proc-exec "filter-auth -p spf=fail:reject"`+
		"\nlisten on $host hostname mx.example.org proxy-v2 filter \"auth\"\n"+toMaildir)
	server := dnstest.Start(t, `
example.net. TXT "v=spf1 exists:%{l}._spf.%{d} ptr:pool.example.net " "a:foo:bar/baz.example.net -all exp=why.example.net"
why.example.net. TXT "%{c} (%{p}) is not one of ours"
user+tag._spf.example.net. A 127.0.0.2
67.100.51.198.in-addr.arpa. PTR a.pool.example.org.
67.100.51.198.in-addr.arpa. PTR b.pool.example.net.
a.pool.example.org. A 198.51.100.67
b.pool.example.net. A 198.51.100.67
foo:bar/baz.example.net. A 198.51.100.68
`)
	d.args = []string{"-o", "resolver=" + server.Addr()}
	d.start()
	for i, tt := range []struct {
		client byte
		sender string
	}{{66, "user+tag@example.net"}, {67, "x@example.net"}, {68, "x@example.net"}} {
		d.dialProxied(tt.client).talk("MAIL FROM:<"+tt.sender+">", "^250", "RCPT TO:<alice@example.org>", "^250",
			"DATA", "^354", "From: x@example.net\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
		matches(t, "message", d.mail("alice", i+1)[i], `\nAuthentication-Results: [^\n]*;\n\tspf=pass smtp\.helo=client\.example\.net smtp\.mailfrom=`+regexp.QuoteMeta(tt.sender)+`;\n`)
	}
	d.dialProxied(66).talk("MAIL FROM:<x@example.net>", "^250", "RCPT TO:<alice@example.org>", "^250",
		"DATA", "^354", "From: x@example.net\r\n\r\ntext\r\n.",
		`^550 5\.7\.1 Message refused: spf=fail for example\.net, which explains: 198\.51\.100\.66 \(unknown\) is not one of ours$`)
}

// dialPort connects to a listener on another port and reads the greeting.
func (d *daemon) dialPort(port string) *conn {
	d.t.Helper()
	nc, err := net.DialTimeout("tcp", net.JoinHostPort(d.host, port), patience)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { nc.Close() })
	c := &conn{d.t, nc, newReader(nc)}
	c.expect("the connection", "^220 ")
	return c
}
