package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// certificate writes a new certificate of a host and its key into the daemon's
// directory, as NAME.crt and NAME.key, and returns its serial number.
func (m *mta) certificate(file, host string) *big.Int {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		m.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		m.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	m.file(file+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	m.file(file+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return serial
}

// secure makes TLS over a connection and returns it with the serial number of the
// certificate that the server showed for a name.
func secure(t testing.TB, conn net.Conn, name string) (*textproto.Conn, *big.Int) {
	t.Helper()
	c := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}) // the test compares the certificate itself
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return textproto.NewConn(c), c.ConnectionState().PeerCertificates[0].SerialNumber
}

// startTLS opens a session and goes over to TLS.
func (m *mta) startTLS(name string) (*textproto.Conn, *big.Int) {
	m.t.Helper()
	conn, err := net.Dial("tcp", m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	m.plainUpToTLS(conn)
	return secure(m.t, conn, name)
}

func (m *mta) plainUpToTLS(conn net.Conn) {
	m.t.Helper()
	c := textproto.NewConn(conn)
	m.expect(c, "(greeting)", "^220")
	m.talk(c, "EHLO client.example.net", "(?s)^250 .*\nSTARTTLS", "STARTTLS", "^220")
}

// credentials holds the user "alice" with the password "Secret pw".
const tlsConf = `
pki one.example.org cert "DIR/one.crt" key "DIR/one.key"
pki two.example.org cert "DIR/two.crt" key "DIR/two.key"
table owner { owner = $owner }
table everybody { "@example.org" = owner }
table credentials { alice = "$2b$05$abcdefghijklmnopqrstuuaFce/BzCiEqH8jSSPQLbXujamEAISfO" }
table addresses { alice = "alice@example.org" }
listen on $host port $port tls pki one.example.org pki two.example.org auth-optional <credentials> hostname mx.example.org received-auth
listen on $host port PORT2 smtps pki one.example.org auth <credentials> senders <addresses> masquerade hostname mx.example.org
listen on $host port PORT3 tls-require pki one.example.org hostname mx.example.org
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any auth for domain "example.com" reject
match from any for domain "example.org" action "keep"
match from auth for any action "keep"
`

func TestTLSAndAuthentication(t *testing.T) {
	t.Parallel()
	_, smtps := freePort(t)
	_, require := freePort(t)
	m := newMTA(t, strings.NewReplacer("PORT2", smtps, "PORT3", require).Replace(tlsConf))
	host, _, _ := net.SplitHostPort(m.addr)
	one, two := m.certificate("one", "one.example.org"), m.certificate("two", "two.example.org")
	m.start()

	// Without TLS no password is asked for.
	m.dialogue("^220", "EHLO c.example.net", `^250 (?s)[^A]*$|^250`, "AUTH PLAIN AGFsaWNlAHBhc3N3b3Jk", "^5")

	c, serial := m.startTLS("two.example.org")
	if serial.Cmp(two) != 0 {
		t.Error("the certificate is not that of the name asked for")
	}
	if _, serial := m.startTLS("one.example.org"); serial.Cmp(one) != 0 {
		t.Error("the certificate is not that of the name asked for")
	}
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	m.talk(c, "EHLO c.example.net", `(?s)^250 .*AUTH .*PLAIN`,
		"AUTH PLAIN "+b64("\x00alice\x00wrong"), "^535 5.7.8",
		"AUTH LOGIN", "^334", b64("alice"), "^334", b64("Secret pw"), "^235",
		"MAIL FROM:<a@example.net>", "^250", "RCPT TO:<x@example.com>", "^550", "RCPT TO:<x@example.org>", "^250",
		"DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250", "QUIT", "^221")
	m.wait(`smtp authentication user=alice result=permfail`)
	m.wait(`failed-command command="AUTH PLAIN \(\.\.\.\)" result="535 5\.7\.8 Authentication failed" cause="[^5]`)
	m.wait(`smtp authentication user=alice result=ok`)
	m.wait(`mda delivery .*result=Ok`)
	if mails := m.mails(); len(mails) != 1 || !strings.Contains(mails[0], "auth=yes user=alice") && !strings.Contains(mails[0], "alice") {
		t.Errorf("the trace field of %q does not say who authenticated", mails)
	}

	// Immediate TLS, authentication required, the sender bound to the user.
	conn, err := net.Dial("tcp", net.JoinHostPort(host, smtps))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, serial = secure(t, conn, "one.example.org")
	if serial.Cmp(one) != 0 {
		t.Error("the certificate of the port for TLS is another one")
	}
	m.expect(c, "(greeting)", "^220")
	m.talk(c, "EHLO c.example.net", "^250", "MAIL FROM:<alice@example.org>", "^530",
		"AUTH PLAIN "+b64("\x00alice\x00Secret pw"), "^235",
		"MAIL FROM:<mallory@example.org>", "^5", "MAIL FROM:<alice@example.org>", "^250", "RCPT TO:<x@example.org>", "^250",
		"DATA", "^354", "From: Mallory <mallory@example.org>\r\nSubject: masked\r\n\r\nx\r\n.", "^250", "QUIT", "^221")
	m.wait(`mda delivery .*from=<alice@example\.org> .*result=Ok`)
	if all := strings.Join(m.mails(), "\n"); !strings.Contains(all, "Subject: masked") || strings.Contains(all, "mallory@") {
		t.Error("the address in From was not replaced by the sender's")
	}

	// A listener that requires TLS takes no mail without.
	r := &mta{t: t, addr: net.JoinHostPort(host, require)}
	r.dialogue("^220", "EHLO c.example.net", "^250", "MAIL FROM:<a@example.net>", "^530 .*STARTTLS")
}

func TestRenewedCertificateIsUsedAndOpenSessionsGoOn(t *testing.T) {
	t.Parallel()
	m := newMTA(t, `pki one cert "DIR/one.crt" key "DIR/one.key"
listen on $host port $port tls pki one hostname mx.example.org
action "keep" maildir $maildir
match from any for domain "example.org" action "keep"
`)
	old := m.certificate("one", "one.example.org")
	m.start()
	conn, err := net.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.plainUpToTLS(conn) // the handshake is still to come

	renewed := m.certificate("one", "one.example.org")
	m.hangUp()
	m.wait(`configuration reloaded`)
	if _, serial := m.startTLS("one.example.org"); serial.Cmp(renewed) != 0 {
		t.Error("a new session has the old certificate")
	}
	c, serial := secure(t, conn, "one.example.org")
	if serial.Cmp(old) != 0 {
		t.Error("the session that was open has another certificate than it began with")
	}
	m.talk(c, "EHLO c.example.net", "^250", "QUIT", "^221")

	// A certificate without its key changes nothing.
	m.file("one.key", "nonsense")
	m.hangUp()
	m.wait(`reload: configuration unchanged: .*smtpd\.conf:1: pki one: `)
	m.startTLS("one.example.org")
}
