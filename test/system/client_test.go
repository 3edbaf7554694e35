//go:build system

package system

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// password is that of the user alice in the table of submission.
const password = "secret"

// submission is a configuration with TLS and passwords.
const submission = `smtp max-message-size 40M
pki site cert "$dir/mx.crt"
pki site key "$dir/mx.key"
table passwords { alice = "$6$systemtest$BgW/V5BrozDDL8edEHuJWIkhz/Ku38EWiYXP/Pb.0SSxqmo0QzGsmzjTgD2ZnpifBSwv7fLfvwwLEFHdEbWpx1" }
listen on $host tls pki site hostname mx.example.org
listen on $host port 465 smtps pki site auth <passwords> hostname mx.example.org
listen on $host port 587 tls-require pki site auth <passwords> hostname mx.example.org
listen on socket
` + toMaildir + `match auth from any for domain "example.com" action "deliver"
match from socket for domain "example.com" action "deliver"
`

// certify writes a certificate for mx.example.org and the daemon's address, which
// is its own authority: $dir/mx.crt and $dir/mx.key.
func (d *daemon) certify() {
	t := d.t
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "mx.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"mx.example.org"}, IPAddresses: []net.IP{net.ParseIP(d.host)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	d.write("mx.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "", 0o644)
	d.write("mx.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "", 0o600)
}

// startSubmission starts a daemon with TLS and passwords.
func startSubmission(t *testing.T) *daemon {
	d := newDaemon(t, submission)
	d.certify()
	d.start()
	return d
}

// sample is a text that is easily damaged on its way.
const sample = "Grüße aus Köln, 日本語\n\n.\n..\n.dot\n\nFrom the start of a line\n%d %{user} $HOME `id`\n--\n=3D is no code\n\ttab and trailing blank \n" +
	"QUIT\nlast\n"

// arrives waits for the message with a subject in alice's Maildir; its decoded
// text must be what was sent.
func (d *daemon) arrives(subject, text string) {
	t := d.t
	t.Helper()
	var found string
	d.await("the message "+subject, func() bool {
		for _, m := range d.mails("alice") {
			if strings.Contains(m, "\nSubject: "+subject+"\n") {
				found = m
				return true
			}
		}
		return false
	})
	got, err := decoded(found)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256([]byte(text)) {
		t.Errorf("%s: %d bytes arrived, want %d; they begin %.300q", subject, len(got), len(text), got)
	}
}

// decoded returns the body of a message without its transfer encoding.
func decoded(m string) ([]byte, error) {
	msg, err := mail.ReadMessage(strings.NewReader(m))
	if err != nil {
		return nil, err
	}
	switch strings.ToLower(msg.Header.Get("Content-Transfer-Encoding")) {
	case "quoted-printable":
		return io.ReadAll(quotedprintable.NewReader(msg.Body))
	case "base64":
		return io.ReadAll(base64.NewDecoder(base64.StdEncoding, msg.Body))
	}
	return io.ReadAll(msg.Body)
}

func TestClientsDeliverWholeMessages(t *testing.T) {
	t.Parallel()
	d := startSubmission(t)
	message := func(subject, text string) string {
		return "From: Sender <sender@example.net>\nTo: alice@example.org\nSubject: " + subject +
			"\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n" + text
	}
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	ca := d.path("mx.crt")
	swaks := func(subject string, args ...string) { // it ends the text with a line end of its own
		d.run("", message(subject, strings.TrimSuffix(sample, "\n")), "swaks", append([]string{"--server", d.host, "--data", "-"}, args...)...)
	}
	credentials := []string{"--auth-user", "alice", "--auth-password", password, "--from", "alice@example.com", "--to", "alice@example.com"}
	for _, tt := range []struct {
		program string
		name    string
		send    func(subject string)
	}{
		{"swaks", "in clear", func(subject string) {
			swaks(subject, "--from", "sender@example.net", "--to", "alice@example.org")
		}},
		{"swaks", "pipelined", func(subject string) {
			swaks(subject, "--pipeline", "--from", "sender@example.net", "--to", "alice@example.org,bob@example.org")
		}},
		{"swaks", "STARTTLS and AUTH PLAIN", func(subject string) {
			swaks(subject, append(credentials, "--port", "587", "-tls", "--auth", "PLAIN")...)
		}},
		{"swaks", "TLS and AUTH LOGIN", func(subject string) {
			swaks(subject, append(credentials, "--port", "465", "--tls-on-connect", "--auth", "LOGIN")...)
		}},
		{"msmtp", "STARTTLS and password", func(subject string) {
			d.write("home/alice/msmtp", "defaults\nauth plain\ntls on\ntls_trust_file "+ca+"\naccount default\nhost "+d.host+"\nport 587\nfrom alice@example.com\nuser alice\npassword "+password+"\n", "alice", 0o600)
			d.run("alice", message(subject, sample), "msmtp", "-C", d.path("home/alice/msmtp"), "--", "alice@example.com")
		}},
		{"curl", "TLS and password", func(subject string) {
			d.run("", crlf(message(subject, sample)), "curl", "-sS", "--url", "smtps://"+d.host+":465", "--cacert", ca, "--user", "alice:"+password,
				"--mail-from", "alice@example.com", "--mail-rcpt", "alice@example.com", "--upload-file", "-")
		}},
		{"curl", "STARTTLS", func(subject string) {
			d.run("", crlf(message(subject, sample)), "curl", "-sS", "--ssl-reqd", "--url", "smtp://"+d.host+":25", "--cacert", ca,
				"--mail-from", "sender@example.net", "--mail-rcpt", "alice@example.org", "--upload-file", "-")
		}},
		{"python3", "smtplib", func(subject string) { d.python(crlf(message(subject, sample))) }},
		{"s-nail", "over SMTP", func(subject string) {
			d.run("alice", sample, "s-nail", "-:/", "-Sv15-compat", "-Smta=smtp://"+d.host+":25", "-Ssmtp-auth=none", "-Sfrom=alice@example.net", "-Sttycharset=utf-8", "-s", subject, "alice@example.org")
		}},
		{"s-nail", "with sendmail", func(subject string) {
			d.run("alice", sample, "s-nail", "-:/", "-Smta="+filepath.Join(programs, "sendmail"), "-Sttycharset=utf-8", "-s", subject, "alice@example.org")
		}},
		{"bsd-mailx", "with sendmail", func(subject string) {
			d.write("home/alice/.mailrc", "set sendmail="+filepath.Join(programs, "sendmail")+"\n", "alice", 0o644)
			d.run("alice", sample, "bsd-mailx", "-a", "Content-Type: text/plain; charset=utf-8", "-s", subject, "alice@example.org")
		}},
		{"mutt", "with sendmail", func(subject string) {
			d.run("alice", sample, "mutt", "-n", "-F", "/dev/null", "-e", "set sendmail='"+filepath.Join(programs, "sendmail")+" -oem -oi'", "-e", "set charset=utf-8 send_charset=utf-8 copy=no text_flowed=no", "-s", subject, "--", "alice@example.org")
		}},
		{"sendmail", "as itself", func(subject string) {
			d.run("alice", message(subject, sample), "sendmail", "-t", "-oi")
		}},
	} {
		t.Run(tt.program+" "+tt.name, func(t *testing.T) {
			defer func(t *testing.T) { d.t = t }(d.t)
			d.t = t
			if tt.program != "sendmail" {
				need(t, tt.program)
			}
			subject := strings.ReplaceAll(tt.program+" "+tt.name, " ", "-")
			tt.send(subject)
			d.arrives(subject, sample)
		})
	}
}

// python sends a message with Python's smtplib.
func (d *daemon) python(message string) {
	d.t.Helper()
	d.run("", message, "python3", "-c", `
import smtplib, sys
with smtplib.SMTP(sys.argv[1], 25, timeout=30) as s:
    s.ehlo("python.example.net")
    assert s.has_extn("8bitmime") and s.has_extn("smtputf8") and s.has_extn("pipelining") and s.has_extn("chunking") and s.has_extn("dsn"), s.esmtp_features
    s.sendmail("sender@example.net", ["alice@example.org"], sys.stdin.buffer.read(), mail_options=["BODY=8BITMIME"])
`, d.host)
}

func TestInternationalAddressesAreTaken(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	d := startDaemon(t, listen+toMaildir)
	d.run("", "", "python3", "-c", `
import smtplib, sys
from email.message import EmailMessage
m = EmailMessage()
m["From"], m["To"], m["Subject"] = "jörg@bücher.example", "alice@example.org", "Grüße"
m.set_content("für dich\n", cte="8bit")
with smtplib.SMTP(sys.argv[1], 25, timeout=30) as s:
    s.ehlo("python.example.net")
    s.send_message(m)
`, d.host)
	mail := d.mail("alice", 1)[0]
	matches(t, "message", mail, `^Return-Path: <jörg@bücher\.example>\n`)
	matches(t, "message", mail, `with UTF8SMTP id `)
	matches(t, "message", mail, `\n\nfür dich\n$`)
	// Without the extension such an address is not one.
	d.connect().talk("EHLO x", "^250", "MAIL FROM:<jörg@bücher.example>", "^550 5.6.7")
}

func TestChunkedMessagesArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	text := "Subject: chunks\r\n\r\n.\r\n..\r\ncut in the middle of a line end:\r\n.\r\n\xff\xfe binary\r\n"
	c := d.to("alice@example.org")
	cut := strings.Index(text, "end:\r") + len("end:\r")
	c.raw(fmt.Sprintf("BDAT %d\r\n%sBDAT %d\r\n%sBDAT 0 LAST\r\n", cut, text[:cut], len(text)-cut, text[cut:]))
	c.expect("the first chunk", fmt.Sprintf("^250 2.0.0 %d octets", cut))
	c.expect("the second chunk", "^250 2.0.0")
	c.expect("the last chunk", "^250 2.0.0 [0-9a-f]{8} ")
	c.talk("MAIL FROM:<>", "^250", "RCPT TO:<alice@example.org>", "^250")
	c.raw("BDAT 17 LAST\r\nSubject: one\r\n\r\n.QUIT\r\n")
	c.expect("the only chunk", "^250 2.0.0 [0-9a-f]{8} ")
	c.expect("QUIT", "^221")
	all := strings.Join(d.mail("alice", 2), "")
	for _, want := range []string{
		"\n\n.\n..\ncut in the middle of a line end:\n.\n\xff\xfe binary\n",
		"Subject: one\n", "\n\n.\n",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %q", want, all)
		}
	}
}

func TestLargeMessageArrivesWhole(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	d := startSubmission(t)
	var text strings.Builder
	for i := 0; text.Len() < 35<<20; i++ {
		fmt.Fprintf(&text, "%d %x\n", i, sha256.Sum256([]byte(fmt.Sprint(i))))
	}
	d.write("large", "From: a@example.net\r\nSubject: large\r\n\r\n"+strings.ReplaceAll(text.String(), "\n", "\r\n"), "", 0o644)
	d.run("", "", "curl", "-sS", "--ssl-reqd", "--url", "smtp://"+d.host+":25", "--cacert", d.path("mx.crt"),
		"--mail-from", "sender@example.net", "--mail-rcpt", "alice@example.org", "--upload-file", d.path("large"))
	d.arrives("large", text.String())
	for _, role := range []string{"dispatcher", "queue", "lookup"} {
		if kB := atoi(t, strings.TrimSuffix(d.role(role).status["VmHWM"], " kB")); kB > 100_000 {
			t.Errorf("%s took %d kB for a message of 35 MB", role, kB)
		}
	}
	d.to("alice@example.org").talk("RSET", "^250", "MAIL FROM:<a@example.net> SIZE=50000000", "^552 5.3.4")
}

func TestThousandMessagesInAHundredSessions(t *testing.T) {
	t.Parallel()
	need(t, "smtp-source")
	d := startDaemon(t, "smtp limit max-session-per-source 200\n"+listen+toMaildir)
	d.run("", "", "smtp-source", "-s", "100", "-m", "1000", "-l", "4000", "-f", "sender@example.net", "-t", "alice@example.org", "inet:"+d.host+":25")
	d.mail("alice", 1000)
}

func TestThousandRecipientsOfAMessage(t *testing.T) {
	t.Parallel()
	need(t, "smtp-source")
	d := startDaemon(t, listen+`action "deliver" maildir "$dir/home/%{user.username}/Maildir" virtual { "@" = alice }
match from any for domain "example.org" action "deliver"
`)
	d.run("", "", "smtp-source", "-s", "1", "-m", "1", "-r", "1000", "-l", "4000", "-f", "sender@example.net", "-t", "rcpt@example.org", "inet:"+d.host+":25")
	seen := map[string]bool{}
	for _, m := range d.mail("alice", 1000) {
		_, rest, _ := strings.Cut(m, "\nDelivered-To: ")
		to, _, _ := strings.Cut(rest, "\n")
		seen[to] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d recipients have the message, want 1000", len(seen))
	}
}

func TestPasswordIsAskedForUnderTLSOnly(t *testing.T) {
	t.Parallel()
	d := startSubmission(t)
	dial := func(port string) *conn {
		nc, err := net.Dial("tcp", net.JoinHostPort(d.host, port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		c := &conn{t, nc, newReader(nc)}
		c.expect("the connection", "^220")
		return c
	}
	c := dial("587").talk("EHLO client.example.net", "^250", "AUTH PLAIN AGFsaWNlAHNlY3JldA==", "^5[03]", "MAIL FROM:<a@example.net>", "^530 5", "STARTTLS", "^220")
	c.startTLS(d)
	c.talk("MAIL FROM:<a@example.net>", "^503", "EHLO client.example.net", "(?s)^250 .*AUTH PLAIN LOGIN", "MAIL FROM:<a@example.net>", "^530 5",
		"AUTH PLAIN AGFsaWNlAHdyb25n", "^535 5.7.8", "AUTH PLAIN AGFsaWNlAHNlY3JldA==", "^235 2", "MAIL FROM:<a@example.net>", "^250", "RCPT TO:<alice@example.com>", "^250")
	d.wait(`smtp authentication user=alice result=ok`)
	d.connect().talk("EHLO x", "^250", "MAIL FROM:<>", "^250", "RCPT TO:<alice@example.com>", "^550 5") // relaying is for users
}

func TestNothingCrossesTheStartOfTLS(t *testing.T) {
	t.Parallel()
	d := startSubmission(t)
	c := d.connect().talk("EHLO client.example.net", "^250")
	c.raw("STARTTLS\r\nMAIL FROM:<injected@example.net>\r\nRCPT TO:<alice@example.org>\r\n")
	reply, err := c.reply()
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(reply, "220 ") {
		c.startTLS(d)
		c.talk("RCPT TO:<alice@example.org>", "^503", "QUIT", "^221")
		return
	}
	matches(t, "reply", reply, "^5")
	for {
		reply, err := c.reply()
		if err != nil {
			break // closed, the other way to be safe
		}
		matches(t, "reply", reply, "^5")
	}
}

// startTLS makes the connection one of TLS.
func (c *conn) startTLS(d *daemon) {
	c.t.Helper()
	pool := x509.NewCertPool()
	pemText, err := os.ReadFile(d.path("mx.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	pool.AppendCertsFromPEM(bytes.TrimSpace(pemText))
	tc := tls.Client(c.Conn, &tls.Config{ServerName: "mx.example.org", RootCAs: pool})
	if err := tc.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.Conn, c.r = tc, newReader(tc)
}
