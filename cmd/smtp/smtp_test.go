package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
)

// host is a server for one session. It answers what it is told by the first of the
// rules, "COMMAND REPLY", whose command is a prefix of the line, else 250. It
// returns its address; what it was told comes over the channel.
func host(t *testing.T, cfg *tls.Config, rules ...string) (port string, told <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := make(chan string, 1)
	go func() {
		defer close(c)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if cfg != nil {
			conn = tls.Server(conn, cfg)
		}
		fmt.Fprint(conn, "220 mx.test\r\n")
		var all strings.Builder
		text := false
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			line = strings.TrimSuffix(line, "\r\n")
			all.WriteString(line + "\n")
			if text = text && line != "."; text {
				continue
			}
			reply := "250 ok"
			if line == "DATA" {
				reply, text = "354 go", true
			}
			for _, rule := range rules {
				if command, answer, _ := strings.Cut(rule, "|"); strings.HasPrefix(line, command) {
					reply = answer
					break
				}
			}
			fmt.Fprint(conn, reply+"\r\n")
		}
		c <- all.String()
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, c
}

// call runs the command.
func call(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut strings.Builder
	p := &program{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errOut}
	status = p.main(t.Context(), append([]string{"-H", "me.test", "-F", "a@x.test"}, args...))
	return status, out.String(), errOut.String()
}

func TestEveryRecipientIsTried(t *testing.T) {
	t.Parallel()
	port, told := host(t, nil, "RCPT TO:<no@|550 5.1.1 who?", "DATA|354 go", ".|250 2.0.0 taken")
	status, out, errOut := call(t, "Subject: x\r\n\r\n.hi", "-s", "127.0.0.1:"+port, "b@y.test", "no@y.test", "c@y.test")
	if want := "b@y.test: EOM: 250 2.0.0 taken\nno@y.test: RCPT: 550 5.1.1 who?\nc@y.test: EOM: 250 2.0.0 taken\n"; out != want || errOut != "" {
		t.Errorf("prints\n%s%swant\n%s", out, errOut, want)
	}
	if status != 1 {
		t.Errorf("exit status %d although a recipient was refused", status)
	}
	if want := "EHLO me.test\nMAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\nRCPT TO:<no@y.test>\nRCPT TO:<c@y.test>\nDATA\nSubject: x\n\n..hi\n.\nQUIT\n"; <-told != want {
		t.Errorf("server was not told\n%s", want)
	}
}

func TestStatusIsZeroWhenAllIsAccepted(t *testing.T) {
	t.Parallel()
	port, _ := host(t, nil)
	status, out, errOut := call(t, "hi\n", "-s", "smtp+notls://127.0.0.1:"+port, "b@y.test")
	if status != 0 || out != "b@y.test: EOM: 250 ok\n" || errOut != "" {
		t.Errorf("%d\n%s%s", status, out, errOut)
	}
}

func TestRecipientsBeyondTheLimitOfATransaction(t *testing.T) {
	t.Parallel()
	port, told := host(t, nil, "EHLO|250-mx.test\r\n250 LIMITS RCPTMAX=1")
	status, out, _ := call(t, "hi\n", "-s", "127.0.0.1:"+port, "b@y.test", "c@y.test")
	if status != 0 || out != "b@y.test: EOM: 250 ok\nc@y.test: EOM: 250 ok\n" || strings.Count(<-told, "DATA\n") != 2 {
		t.Errorf("%d\n%s", status, out)
	}
}

func TestConnectOnly(t *testing.T) {
	t.Parallel()
	port, told := host(t, nil)
	status, out, errOut := call(t, "", "-n", "-v", "-s", "127.0.0.1:"+port)
	if want := "<<< 220 mx.test\n>>> EHLO me.test\n<<< 250 ok\n>>> QUIT\n<<< 250 ok\n"; status != 0 || out != "" || errOut != want || <-told != "EHLO me.test\nQUIT\n" {
		t.Errorf("%d\n%s%swant\n%s", status, out, errOut, want)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	port, _ := host(t, nil)
	empty := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(empty, []byte("user\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"TLS is not to be had", []string{"-s", "smtp+tls://127.0.0.1:" + port, "b@y.test"}, "TLS required but not supported by remote host"},
		{"no recipient", nil, "no recipient"},
		{"bad recipient", []string{"b@"}, `invalid recipient: "b@"`},
		{"bad sender", []string{"-F", "a b", "b@y.test"}, `invalid sender: "a b"`},
		{"unknown scheme", []string{"-s", "http://x", "b@y.test"}, `unknown scheme: "http"`},
		{"LMTP without port", []string{"-s", "lmtp://x", "b@y.test"}, "LMTP server needs a port"},
		{"bad port", []string{"-s", "x:0", "b@y.test"}, `invalid port: "0"`},
		{"bad TLS parameter", []string{"-T", "noverify,foo", "b@y.test"}, `invalid TLS parameter: "foo"`},
		{"bad ciphers", []string{"-T", "ciphers=foo", "b@y.test"}, "TLS: "},
		{"no password", []string{"-a", empty, "b@y.test"}, "want a user name and, on the next line, a password"},
		{"no such file", []string{"-T", "cafile=" + empty + "x", "b@y.test"}, "no such file"},
		{"unknown option", []string{"-x"}, "usage: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if status, out, errOut := call(t, "hi\n", tt.args...); status != 1 || out != "" || !strings.Contains(errOut, tt.want) {
				t.Errorf("%d\n%s%swant %s", status, out, errOut, tt.want)
			}
		})
	}
}

func TestCertificateAndCredentials(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"}, DNSNames: []string{"mx.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, auth := filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(auth, []byte("user\npass word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const plain = "AUTH PLAIN AHVzZXIAcGFzcyB3b3Jk"
	for _, tt := range []struct {
		name string
		args []string
		want string // error, or empty
		sni  string
	}{
		{"unknown authority", nil, "TLS handshake failed: ", ""},
		{"another name", []string{"-T", "cafile=" + ca}, "TLS handshake failed: ", ""},
		{"the right name", []string{"-T", "cafile=" + ca, "-S", "mx.test"}, "", "mx.test"},
		{"the right name, not asked for", []string{"-T", "cafile=" + ca + ",servername=mx.test,nosni"}, "", ""},
		{"another name, not asked for", []string{"-T", "cafile=" + ca + ",servername=my.test,nosni"}, "TLS handshake failed: ", ""},
		{"not verified", []string{"-C"}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 1)
			cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
				GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					asked <- h.ServerName
					return nil, nil
				}}
			port, told := host(t, cfg, "EHLO|250-mx.test\r\n250 AUTH PLAIN", "AUTH|235 ok")
			status, out, errOut := call(t, "hi\n", append(tt.args, "-a", auth, "-s", "smtps://127.0.0.1:"+port, "b@y.test")...)
			if sni := <-asked; sni != tt.sni {
				t.Errorf("asked for %q, want %q", sni, tt.sni)
			}
			said := <-told
			if tt.want != "" {
				if status != 1 || !strings.Contains(errOut, tt.want) || said != "" {
					t.Errorf("%d\n%s%swant %s", status, out, errOut, tt.want)
				}
				return
			}
			if status != 0 || !strings.Contains(said, plain+"\n") {
				t.Errorf("%d\n%s%s%s", status, out, errOut, said)
			}
		})
	}
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]target{
		"mx.test":                      {host: "mx.test", port: "25", mode: client.OpportunisticTLS},
		"mx.test:26":                   {host: "mx.test", port: "26", mode: client.OpportunisticTLS},
		"2001:db8::1":                  {host: "2001:db8::1", port: "25", mode: client.OpportunisticTLS},
		"smtp://[2001:db8::1]":         {host: "2001:db8::1", port: "25", mode: client.OpportunisticTLS},
		"smtp+tls://[2001:db8::1]:587": {host: "2001:db8::1", port: "587", mode: client.RequireTLS},
		"SMTPS://mx.test":              {host: "mx.test", port: "465", mode: client.ImmediateTLS},
		"lmtp+notls://mx.test:24":      {host: "mx.test", port: "24", mode: client.NoTLS, lmtp: true},
	} {
		if got, err := parseTarget(in); got != want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	got, err := parseTarget("smtps://a@b:p@ss:w@mx.test")
	if err != nil || got.host != "mx.test" || *got.credentials != (client.Credentials{User: "a@b", Password: "p@ss:w"}) {
		t.Errorf("credentials %+v, %v", got.credentials, err)
	}
	for _, in := range []string{"", "smtp+foo://x", "smtps+tls://x", "lmtps://x", "smtp+://x", "smtp://u@x", "x:y", "smtp://"} {
		if got, err := parseTarget(in); err == nil {
			t.Errorf("%q: %+v", in, got)
		}
	}
}
