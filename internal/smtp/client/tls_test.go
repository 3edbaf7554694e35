package client

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/server"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// certificate makes a self-signed certificate for mx.test, and returns it as PEM too.
func certificate(t testing.TB) (*tls.Config, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"}, DNSNames: []string{"mx.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	cfg, err := tlsconf.Server{Certificates: []tlsconf.Certificate{{Name: "mx.test", Chain: text, Key: key}}}.Config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg, text
}

// trusting returns the client's TLS configuration.
func trusting(t testing.TB, name string, roots []byte) *tls.Config {
	t.Helper()
	cfg, err := tlsconf.Client{ServerName: name, Verify: roots != nil, Roots: roots}.Config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// mailbox is the backend of a server of our own. It knows every recipient but "no".
type mailbox struct {
	mu       sync.Mutex
	messages []string
	last     server.Transaction
}

func (m *mailbox) Authenticate(_ context.Context, user, password string) error {
	if user != "u" || password != "p" {
		return &smtp.Error{Code: 535, Text: "wrong"}
	}
	return nil
}

func (m *mailbox) Mail(_ context.Context, t *server.Transaction) error {
	t.ID = 1
	return nil
}

func (m *mailbox) Rcpt(_ context.Context, t *server.Transaction, rcpts []server.Recipient, errs []error) {
	for i, r := range rcpts {
		if r.Path.Local == "no" {
			errs[i] = &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 1}, Text: "no such user"}
		}
	}
}

func (m *mailbox) Data(context.Context, *server.Transaction) error { return nil }

func (m *mailbox) Spill(context.Context, *server.Transaction) (server.File, error) {
	return nil, errors.New("nothing is spilled")
}

// Commit implements server.Backend. InlineMax is such that nothing is spilled.
func (m *mailbox) Commit(_ context.Context, t *server.Transaction, body []byte, _ int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, string(body))
	m.last = *t
	return nil
}

func (m *mailbox) Reset(*server.Transaction) {}

type deaf struct{}

func (deaf) Report(report.Event) {}

// host runs a server of our own and returns a connection to it.
func host(t testing.TB, cfg server.Config) (net.Conn, *mailbox) {
	t.Helper()
	box := new(mailbox)
	cfg.Name = "mx.test"
	cfg.InlineMax = 1 << 20
	cfg.Events = deaf{}
	cfg.Backend = func(*server.Session) server.Backend { return box }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := server.New(server.Limits{})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(ctx, l, server.Options{Config: func() (*server.Config, func()) { return &cfg, nil }})
	}()
	t.Cleanup(func() {
		cancel()
		_ = srv.Drain(context.Background()) // its error is that of the context
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // before the server is drained
	return conn, box
}

func TestWithOurServer(t *testing.T) {
	t.Parallel()
	serverTLS, roots := certificate(t)
	for _, tt := range []struct {
		name     string
		server   server.Config
		client   Config
		verified bool
	}{
		{"in the clear", server.Config{}, Config{}, false},
		{"opportunistic TLS", server.Config{TLSMode: server.OfferTLS}, Config{TLSMode: OpportunisticTLS, TLS: trusting(t, "mx.test", nil)}, false},
		{"TLS required, verified", server.Config{TLSMode: server.RequireTLS}, Config{TLSMode: RequireTLS, TLS: trusting(t, "mx.test", roots)}, true},
		{"TLS from the first byte, AUTH PLAIN", server.Config{TLSMode: server.ImmediateTLS, Auth: server.RequireAuth},
			Config{TLSMode: ImmediateTLS, TLS: trusting(t, "mx.test", roots), Credentials: &Credentials{User: "u", Password: "p"}}, true},
		{"without chunking", server.Config{}, Config{NoChunking: true}, false},
		{"without pipelining", server.Config{}, Config{NoPipelining: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.client.TLSMode != NoTLS {
				tt.server.TLS = serverTLS
			}
			conn, box := host(t, tt.server)
			var seen events
			tt.client.Name, tt.client.Events = "me.test", &seen
			s := New(conn, tt.client)
			if err := s.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.Verified() != tt.verified || (s.TLS() != nil) != (tt.client.TLSMode != NoTLS) {
				t.Errorf("verified %v, TLS %v", s.Verified(), s.TLS() != nil)
			}
			large := strings.Repeat(".line of a message\n", 10000)
			for _, body := range []string{"Subject: small\n\n.dot\n", "Subject: large\n\n" + large} {
				got := s.Send(t.Context(), message(t, body, "b@y.test", "no@y.test", "c@y.test"))
				if s := summary(got); !regexp.MustCompile(`^EOM ok 250 2\.0\.0 .*\nRCPT permanent 550 5\.1\.1 .*no such user.*\nEOM ok 250 2\.0\.0 .*\n$`).MatchString(s) {
					t.Errorf("results\n%s", s)
				}
			}
			quit(t, s)
			box.mu.Lock()
			defer box.mu.Unlock()
			if len(box.messages) != 2 || len(box.last.Rcpts) != 2 {
				t.Fatalf("%d messages, recipients of the last %v", len(box.messages), box.last.Rcpts)
			}
			if !strings.HasSuffix(box.messages[0], "\n\n.dot\n") || !strings.HasSuffix(box.messages[1], "\n\n"+large) {
				t.Errorf("first message %q, second of %d bytes", box.messages[0], len(box.messages[1]))
			}
			log := strings.Join(seen.lines, "\n")
			if tt.client.TLSMode != NoTLS && (!strings.Contains(log, "report.RelayTLS {Session:0 Ciphers:TLSv1.3:TLS_AES_128_GCM_SHA256:128}") ||
				strings.Contains(log, "Result:valid") != tt.verified || !strings.Contains(log, "Fingerprint:SHA256:")) {
				t.Errorf("events\n%s", log)
			}
			if !slices.Contains(seen.lines, "report.RelayDisconnected {Session:0 Reason:quit Messages:2}") {
				t.Errorf("events\n%s", log)
			}
		})
	}
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	serverTLS, roots := certificate(t)
	conn, _ := host(t, server.Config{TLSMode: server.ImmediateTLS, TLS: serverTLS, Auth: server.OfferAuth})
	s := New(conn, Config{Name: "me.test", TLSMode: ImmediateTLS, TLS: trusting(t, "mx.test", roots), Credentials: &Credentials{User: "u", Password: "x"}})
	if err := s.Open(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "AUTH rejected: 535 5.7.8 ") {
		t.Errorf("Open: %v", err)
	}
}

func TestCertificateThatDoesNotVerify(t *testing.T) {
	t.Parallel()
	serverTLS, roots := certificate(t)
	_, others := certificate(t)
	for name, cfg := range map[string]*tls.Config{
		"another name":      trusting(t, "other.test", roots),
		"another authority": trusting(t, "mx.test", others),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, _ := host(t, server.Config{TLSMode: server.OfferTLS, TLS: serverTLS})
			s := New(conn, Config{Name: "me.test", TLSMode: RequireTLS, TLS: cfg})
			err := s.Open(t.Context())
			e, ok := errors.AsType[*ConnError](err)
			if !ok || e.Stage != Handshake || !e.Certificate() || !strings.HasPrefix(err.Error(), "TLS handshake failed: ") {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

func TestServerThatSpeaksNoTLSAfterAll(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		r := bufio.NewReader(far)
		say(far, "220 mx.test\r\n")
		for _, reply := range []string{"250-mx.test\r\n250 STARTTLS\r\n", "220 go\r\n"} {
			if _, err := r.ReadString('\n'); err != nil || !say(far, reply) {
				return
			}
		}
		if _, err := r.Read(make([]byte, 4096)); err == nil {
			say(far, "250 what?\r\n")
		}
	}()
	s := New(near, Config{Name: "me.test", TLSMode: OpportunisticTLS, TLS: trusting(t, "mx.test", nil)})
	err := s.Open(t.Context())
	if e, ok := errors.AsType[*ConnError](err); !ok || e.Stage != Handshake || e.Certificate() {
		t.Errorf("Open: %v", err)
	}
	_ = s.Close()
	<-done
}
