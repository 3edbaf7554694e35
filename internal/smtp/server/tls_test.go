package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// certificate makes a self-signed certificate for mx.test.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"}, DNSNames: []string{"mx.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// tlsSetup is a listener for others with TLS, and what its clients need.
func tlsSetup(t *testing.T, mode TLSMode) (*setup, *tls.Config) {
	t.Helper()
	cert, pool := certificate(t)
	u := newSetup()
	u.cfg.Local, u.cfg.TLSMode = false, mode
	u.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}
	return u, &tls.Config{RootCAs: pool, ServerName: "mx.test", Certificates: []tls.Certificate{cert}}
}

const offered = `
S: 250-mx.test Hello c.test [192.0.2.1], pleased to meet you
S: 250-8BITMIME
S: 250-ENHANCEDSTATUSCODES
S: 250-SIZE 36700160
S: 250-DSN
S: 250-PIPELINING
S: 250-CHUNKING
S: 250-SMTPUTF8
S: 250-LIMITS MAILMAX=100 RCPTMAX=1000
`

// receivedDate stands for the date of a trace header.
var receivedDate = regexp.MustCompile(`\t[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [-+]\d{4}( \(\w+\))?\n`)

func TestSTARTTLS(t *testing.T) {
	t.Parallel()
	u, client := tlsSetup(t, RequireTLS)
	u.cfg.Auth, u.cfg.ReceivedAuth = OfferAuth, true
	u.cfg.TLS.ClientAuth = tls.VerifyClientCertIfGiven
	conn, done := u.start(t)
	u.playOn(t, conn, join(`
S: 220 mx.test ESMTP OpenSMTPD
C: EHLO c.test`, offered, `
S: 250-STARTTLS
S: 250 HELP
C: MAIL FROM:<>
S: 530 5.5.1 Invalid command: Must issue a STARTTLS command first
C: AUTH PLAIN AGFubgBzZWNyZXQ=
S: 503 5.5.1 Invalid command: Command not supported
C: STARTTLS now
S: 501 5.5.4 Invalid command arguments: No parameters allowed
C: STARTTLS
S: 220 2.0.0 Ready to start TLS`))
	secured := tls.Client(conn, client)
	u.playOn(t, secured, join(`
C: MAIL FROM:<>
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: EHLO c.test`, offered, `
S: 250-REQUIRETLS
S: 250-AUTH PLAIN LOGIN
S: 250 HELP
C: STARTTLS
S: 503 5.5.1 Invalid command: Channel already secured
C: AUTH PLAIN AGFubgBzZWNyZXQ=
S: 235 2.0.0 Authentication succeeded
C: EHLO c.test`, offered, `
S: 250-REQUIRETLS
S: 250 HELP
C: MAIL FROM:<a@b.test>
C: RCPT TO:<c@d.test>
C: DATA
S: 250 2.0.0 Ok
S: 250 2.1.5 Destination address valid: Recipient ok
S: 354 Enter mail, end with "." on a line by itself
C: Date: x
C: Message-ID: y
C: .
C: QUIT
S: 250 2.0.0 abcd0001 Message accepted for delivery
S: 221 2.0.0 Bye
S: EOF`))
	<-done
	want := `Received: from c.test (<unknown> [192.0.2.1])
	by mx.test (OpenSMTPD) with ESMTPSA id abcd0001 (TLSv1.3:TLS_AES_128_GCM_SHA256:128:YES) auth=yes user=ann
	for <c@d.test>;
DATE
Date: x
Message-ID: y
`
	if got := receivedDate.ReplaceAllString(u.backend.stored[0], "DATE\n"); got != want {
		t.Errorf("stored\n%swant\n%s", got, want)
	}
	for _, want := range []string{
		"TLS {Ciphers:TLSv1.3:TLS_AES_128_GCM_SHA256:128}\n",
		"CertCheck {Result:verified Fingerprint:SHA256:",
	} {
		if got := u.events.String(); !strings.Contains(got, want) {
			t.Errorf("no %q in events\n%s", want, got)
		}
	}
}

func TestNotOneByteCrossesSTARTTLS(t *testing.T) {
	t.Parallel()
	u, _ := tlsSetup(t, OfferTLS)
	u.play(t, join(remoteHello, `
C: STARTTLS
C: RSET
S: 554 5.5.1 Invalid command: Input behind STARTTLS
S: EOF`))
	if got := u.events.String(); !strings.Contains(got, "BadInput {Result:554 5.5.1") {
		t.Errorf("events %s", got)
	}
}

func TestTLSFromTheFirstByte(t *testing.T) {
	t.Parallel()
	u, client := tlsSetup(t, ImmediateTLS)
	client.MaxVersion = tls.VersionTLS12
	conn, done := u.start(t)
	u.playOn(t, tls.Client(conn, client), remoteHello+`
C: STARTTLS
S: 503 5.5.1 Invalid command: Channel already secured
C: QUIT
S: 221 2.0.0 Bye
S: EOF`)
	<-done
	if got := u.events.String(); !strings.Contains(got, "TLS {Ciphers:TLSv1.2:ECDHE-ECDSA-AES128-GCM-SHA256:128}\n") {
		t.Errorf("events %s", got)
	}
}

func TestFailedHandshakeEndsTheSession(t *testing.T) {
	t.Parallel()
	u, _ := tlsSetup(t, OfferTLS)
	conn, done := u.start(t)
	u.playOn(t, conn, join(remoteHello, "C: STARTTLS\nS: 220 2.0.0 Ready to start TLS"))
	go func() { _, _ = io.WriteString(conn, "MAIL FROM:<>\r\n") }()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	<-done
	if got := u.events.String(); !strings.HasSuffix(got, "Disconnected {Reason:tls-accept-failed}\n") {
		t.Errorf("events %s", got)
	}
}

func TestClientCertificateMayBeRequired(t *testing.T) {
	t.Parallel()
	u, client := tlsSetup(t, ImmediateTLS)
	u.cfg.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	client.Certificates = nil
	conn, done := u.start(t)
	line, err := bufio.NewReader(tls.Client(conn, client)).ReadString('\n')
	if err == nil {
		t.Errorf("greeted with %q", line)
	}
	_ = conn.Close()
	<-done
}

func TestTraceHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		adjust func(u *setup)
		rcpts  int
		want   string
	}{
		{"local", func(u *setup) { u.cfg.Local = true }, 1,
			"Received: from c.test (mx.test [local])\n\tby mx.test (OpenSMTPD) with SMTPA id abcd0001\n\tfor <r0@d.test>;\nDATE\n"},
		{"several recipients are not named", nil, 2,
			"Received: from c.test (<unknown> [192.0.2.1])\n\tby mx.test (OpenSMTPD) with SMTP id abcd0001;\nDATE\n"},
		{"reverse name, name by address", func(u *setup) {
			u.cfg.RDNS = func(_ context.Context, a netip.Addr) (string, wire.Result) {
				return "host-" + a.String() + ".test", wire.Pass
			}
			u.cfg.NameFor = func(_ context.Context, a netip.Addr) string { return "at-" + a.String() + ".test" }
		}, 2, "Received: from c.test (host-192.0.2.1.test [192.0.2.1])\n\tby at-198.51.100.2.test (OpenSMTPD) with SMTP id abcd0001;\nDATE\n"},
		{"a reverse name that is none", func(u *setup) {
			u.cfg.RDNS = func(context.Context, netip.Addr) (string, wire.Result) { return "x)\n\tby evil", wire.Fail }
		}, 2, "Received: from c.test (<unknown> [192.0.2.1])\n\tby mx.test (OpenSMTPD) with SMTP id abcd0001;\nDATE\n"},
		{"source masked", func(u *setup) { u.cfg.MaskSource = true }, 2,
			"Received: \n\tby mx.test (OpenSMTPD) with SMTP id abcd0001;\nDATE\n"},
		{"junk", func(u *setup) { u.backend.junk = true }, 2,
			"X-Spam: Yes\nReceived: from c.test (<unknown> [192.0.2.1])\n\tby mx.test (OpenSMTPD) with SMTP id abcd0001;\nDATE\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newSetup()
			u.cfg.Local = false
			if tt.adjust != nil {
				tt.adjust(u)
			}
			conn, done := u.start(t)
			script := "HELO c.test\r\nMAIL FROM:<>\r\n"
			for i := range tt.rcpts {
				script += fmt.Sprintf("RCPT TO:<r%d@d.test>\r\n", i)
			}
			go func() { _, _ = io.WriteString(conn, script+"DATA\r\n.\r\nQUIT\r\n") }()
			said, _ := io.ReadAll(conn)
			<-done
			if len(u.backend.stored) != 1 {
				t.Fatalf("stored %q, server said %q", u.backend.stored, said)
			}
			if got := receivedDate.ReplaceAllString(u.backend.stored[0], "DATE\n"); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestIPv6ClientIsBracketedOnce(t *testing.T) {
	t.Parallel()
	s := newSession(nil, &Config{}, nil, netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2"))
	if s.Source != "[2001:db8::1]" || s.bracketed() != "[2001:db8::1]" {
		t.Errorf("source %s, in brackets %s", s.Source, s.bracketed())
	}
	s = newSession(nil, &Config{}, nil, netip.MustParseAddrPort("[::ffff:192.0.2.1]:1"), netip.MustParseAddrPort("[::ffff:192.0.2.2]:2"))
	if s.Source != "192.0.2.1" || s.bracketed() != "[192.0.2.1]" {
		t.Errorf("source %s, in brackets %s", s.Source, s.bracketed())
	}
}
