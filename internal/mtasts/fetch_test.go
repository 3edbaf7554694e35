package mtasts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

func TestPolicyIsFetchedByHTTPS(t *testing.T) {
	t.Parallel()
	reply := make(chan func(w http.ResponseWriter), 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "mta-sts.example.com" && r.Host != "mta-sts.example.net" || r.URL.Path != "/.well-known/mta-sts.txt" || r.Method != "GET" {
			t.Errorf("%s https://%s%s", r.Method, r.Host, r.URL)
		}
		(<-reply)(w)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshakes that fail do so on purpose
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate()) // for example.com and *.example.com
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	f := NewFetcher(Web{Names: addrs{at.Addr()}, Roots: roots, Port: at.Port(), Loopback: true})
	plain := func(body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprint(w, body)
		}
	}
	for _, tt := range []struct {
		name  string
		reply func(http.ResponseWriter)
		ok    bool
	}{
		{"the usual", plain(good), true},
		{"longest", plain(strings.Repeat("x", maxText)), true},
		{"too long", plain(strings.Repeat("x", maxText+1)), false},
		{"not found", func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/plain"); w.WriteHeader(404) }, false},
		{"redirect", func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://mta-sts.example.com/.well-known/mta-sts.txt")
			w.WriteHeader(301)
		}, false},
		{"HTML", func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); fmt.Fprint(w, good) }, false},
		{"no type", func(w http.ResponseWriter) { w.Header()["Content-Type"] = nil; fmt.Fprint(w, good) }, false},
		{"endless header", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			fmt.Fprint(w, good)
		}, false},
	} {
		reply <- tt.reply
		text, err := f.Fetch(t.Context(), "example.com")
		if (err == nil) != tt.ok || err == nil && tt.name == "the usual" && string(text) != good {
			t.Errorf("%s: %d bytes, %v", tt.name, len(text), err)
		}
		if err != nil && Result(err) != tlsrpt.STSPolicyFetchError {
			t.Errorf("%s: reported as %s", tt.name, Result(err))
		}
	}
	if text, err := f.Fetch(t.Context(), "example.net"); err == nil || Result(err) != tlsrpt.STSWebPKIInvalid {
		t.Errorf("certificate for another name: %d bytes, %v", len(text), err)
	}
}

// addrs is a name server with one answer.
type addrs []netip.Addr

func (a addrs) Addrs(context.Context, string) (*dns.Answer, error) { return &dns.Answer{Addrs: a}, nil }

func TestPolicyServerOnThisMachineIsNotAsked(t *testing.T) {
	t.Parallel()
	accepted := make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- struct{}{}
			c.Close()
		}
	}()
	web := Web{Port: netip.MustParseAddrPort(l.Addr().String()).Port(), Names: addrs{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:127.0.0.1"),
		netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("ff02::1")}}
	if c, err := web.dial(t.Context(), "tcp", "mta-sts.example.org:443"); err == nil {
		c.Close()
		t.Error("connected to this machine")
	}
	l.Close()
	if _, open := <-accepted; open {
		t.Error("a connection arrived")
	}
}

func TestResultOfAnError(t *testing.T) {
	t.Parallel()
	for want, err := range map[tlsrpt.Result]error{
		tlsrpt.STSPolicyInvalid:    fmt.Errorf("policy: %w", ErrInvalid),
		tlsrpt.STSWebPKIInvalid:    fmt.Errorf("get: %w", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}),
		tlsrpt.STSPolicyFetchError: errors.New("refused"),
	} {
		if got := Result(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}
