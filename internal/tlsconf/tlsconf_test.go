package tlsconf

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// newKey makes a key of the kind rsa, ecdsa or ed25519.
func newKey(t *testing.T, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a self-signed certificate for names.
func issue(t *testing.T, key crypto.Signer, names ...string) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template(names), template(names), key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func template(names []string) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: names[0]},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return c
}

// pki makes a certificate of its own.
func pki(t *testing.T, kind, name string, names ...string) Certificate {
	t.Helper()
	key := newKey(t, kind)
	return Certificate{Name: name, Chain: issue(t, key, names...), Key: key}
}

// connect returns the ends of a connection that buffers: with none, both sides of a
// handshake that fails would wait to write.
func connect(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if b, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// handshake runs one between the two and returns what the client sees.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := connect(t)
	defer a.Close()
	defer b.Close()
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := s.HandshakeContext(t.Context())
		if err == nil {
			_, err = s.Write([]byte("220"))
		}
		done <- err
		a.Close()
	}()
	err := c.HandshakeContext(t.Context())
	if err == nil {
		// In TLS 1.3 a server's refusal comes after the client's handshake.
		_, err = c.Read(make([]byte, 3))
	}
	b.Close()
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	return c.ConnectionState(), err
}

func mustServer(t *testing.T, s Server) *tls.Config {
	t.Helper()
	cfg, err := s.Config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func mustClient(t *testing.T, c Client) *tls.Config {
	t.Helper()
	cfg, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestKeyElsewhereSignsHandshakes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		for _, protocol := range []string{"tlsv1.2", "tlsv1.3"} {
			t.Run(kind+" "+protocol, func(t *testing.T) {
				t.Parallel()
				key := newKey(t, kind)
				chain := issue(t, key, "mx.example.org")
				store := NewKeyStore()
				store.Add("mx.example.org", key)
				asked := 0
				signer, err := NewSigner("mx.example.org", chain, func(_ context.Context, r SignRequest) ([]byte, error) {
					asked++
					return store.Sign(r)
				})
				if err != nil {
					t.Fatal(err)
				}
				server := mustServer(t, Server{Certificates: []Certificate{{"mx.example.org", chain, signer}}, Protocols: protocol})
				client := mustClient(t, Client{ServerName: "mx.example.org", Verify: true, Roots: chain})
				if _, err := handshake(t, server, client); err != nil {
					t.Fatal(err)
				}
				if asked != 1 {
					t.Errorf("the key was asked to sign %d times, want once", asked)
				}
			})
		}
	}
}

func TestCertificateIsChosenByName(t *testing.T) {
	t.Parallel()
	server := mustServer(t, Server{Certificates: []Certificate{
		pki(t, "ecdsa", "first", "first.example.org", "also.example.org"),
		pki(t, "ecdsa", "mx.example.org", "mx.example.org"),
		pki(t, "ecdsa", "*.example.net", "wild.example.net"),
		pki(t, "ecdsa", "other", "*.example.com"),
	}})
	for name, want := range map[string]string{
		"":                   "first.example.org",
		"unknown.example.io": "first.example.org",
		"also.example.org":   "first.example.org",
		"MX.Example.org":     "mx.example.org",
		"a.example.net":      "wild.example.net",
		"a.b.example.net":    "first.example.org",
		"example.net":        "first.example.org",
		"a.example.com":      "*.example.com",
	} {
		st, err := handshake(t, server, mustClient(t, Client{ServerName: name}))
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := st.PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("client that asks for %q gets the certificate of %q, want %q", name, got, want)
		}
	}
}

func TestClientGetsACertificateItCanUse(t *testing.T) {
	t.Parallel()
	server := mustServer(t, Server{Certificates: []Certificate{
		pki(t, "ed25519", "mx.example.org", "mx.example.org"), pki(t, "rsa", "mx.example.org", "mx.example.org"),
	}})
	client := mustClient(t, Client{ServerName: "mx.example.org", Ciphers: "aRSA", Protocols: "tlsv1.2"})
	st, err := handshake(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := st.PeerCertificates[0].PublicKey.(*rsa.PublicKey); !ok {
		t.Errorf("got a %T", st.PeerCertificates[0].PublicKey)
	}
}

func TestClientCertificateIsDemanded(t *testing.T) {
	t.Parallel()
	mine := pki(t, "ecdsa", "mx.example.org", "mx.example.org")
	good, bad := pki(t, "ecdsa", "good", "good.example.org"), pki(t, "ecdsa", "bad", "bad.example.org")
	server := mustServer(t, Server{Certificates: []Certificate{mine}, ClientCAs: good.Chain, Verify: true})
	for name, tt := range map[string]struct {
		cert *Certificate
		ok   bool
	}{"none": {nil, false}, "of a stranger": {&bad, false}, "good": {&good, true}} {
		_, err := handshake(t, server, mustClient(t, Client{ServerName: "mx.example.org", Certificate: tt.cert}))
		if (err == nil) != tt.ok {
			t.Errorf("certificate %s: %v; accepted should be %v", name, err, tt.ok)
		}
	}
}

func TestServerCertificateIsVerified(t *testing.T) {
	t.Parallel()
	mine := pki(t, "ecdsa", "mx.example.org", "mx.example.org", "127.0.0.1")
	other := pki(t, "ecdsa", "other", "mx.example.org")
	server := mustServer(t, Server{Certificates: []Certificate{mine}})
	for _, tt := range []struct {
		why string
		c   Client
		ok  bool
	}{
		{"its name", Client{ServerName: "mx.example.org", Verify: true, Roots: mine.Chain}, true},
		{"its address", Client{ServerName: "127.0.0.1", Verify: true, Roots: mine.Chain}, true},
		{"another name", Client{ServerName: "mx.example.com", Verify: true, Roots: mine.Chain}, false},
		{"another authority", Client{ServerName: "mx.example.org", Verify: true, Roots: other.Chain}, false},
		{"opportunistic", Client{ServerName: "mx.example.com"}, true},
	} {
		if _, err := handshake(t, server, mustClient(t, tt.c)); (err == nil) != tt.ok {
			t.Errorf("%s: %v; accepted should be %v", tt.why, err, tt.ok)
		}
	}
}

func TestOldProtocolsAreNotSpoken(t *testing.T) {
	t.Parallel()
	server := mustServer(t, Server{Certificates: []Certificate{pki(t, "ecdsa", "a", "a.example.org")}, Protocols: "all"})
	client := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if _, err := handshake(t, server, client); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	if !server.SessionTicketsDisabled {
		t.Error("session tickets are issued")
	}
}

func TestContradictionsAreErrors(t *testing.T) {
	t.Parallel()
	a, b := pki(t, "ecdsa", "a", "a.example.org"), pki(t, "ecdsa", "b", "b.example.org")
	for name, s := range map[string]Server{
		"no certificate":         {},
		"key of another":         {Certificates: []Certificate{{"a", a.Chain, b.Key}}},
		"no key":                 {Certificates: []Certificate{{"a", a.Chain, nil}}},
		"no chain":               {Certificates: []Certificate{{"a", nil, a.Key}}},
		"verify without ca":      {Certificates: []Certificate{a}, Verify: true},
		"ca without certificate": {Certificates: []Certificate{a}, ClientCAs: []byte("x")},
		"unknown protocol":       {Certificates: []Certificate{a}, Protocols: "tlsv2"},
		"unknown cipher":         {Certificates: []Certificate{a}, Ciphers: "nonsense"},
		"nothing in common":      {Certificates: []Certificate{a}, Protocols: "tlsv1.2", Ciphers: "TLS_AES_128_GCM_SHA256"},
	} {
		if _, err := s.Config(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := (Client{Verify: true}).Config(); err == nil {
		t.Error("verification against no name: no error")
	}
}

func TestKeyStoreRefusesWhatTLSDoesNotAsk(t *testing.T) {
	t.Parallel()
	store := NewKeyStore()
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		store.Add(kind, newKey(t, kind))
	}
	digest := make([]byte, 32)
	for name, r := range map[string]SignRequest{
		"unknown key":        {Key: "none", Hash: uint32(crypto.SHA256), Digest: digest},
		"short digest":       {Key: "rsa", Hash: uint32(crypto.SHA256), Digest: digest[1:]},
		"raw RSA":            {Key: "rsa", Digest: digest},
		"raw ECDSA":          {Key: "ecdsa", Digest: digest},
		"SHA-1":              {Key: "rsa", Hash: uint32(crypto.SHA1), Digest: digest[:20]},
		"MD5":                {Key: "rsa", Hash: uint32(crypto.MD5), Digest: digest[:16]},
		"hash out of range":  {Key: "rsa", Hash: 1 << 31, Digest: digest},
		"PSS by ECDSA":       {Key: "ecdsa", Hash: uint32(crypto.SHA256), PSS: true, Digest: digest},
		"digest for Ed25519": {Key: "ed25519", Hash: uint32(crypto.SHA256), Digest: digest},
		"nothing":            {Key: "ed25519"},
		"a long text":        {Key: "ed25519", Digest: make([]byte, maxSigned+1)},
		"the zero request":   {},
		"PSS without a hash": {Key: "rsa", PSS: true, Digest: digest},
	} {
		if sig, err := store.Sign(r); err == nil {
			t.Errorf("%s: signed: %x", name, sig)
		}
	}
}

func TestFailureOfTheKeyProcessEndsTheHandshake(t *testing.T) {
	t.Parallel()
	key := newKey(t, "ecdsa")
	chain := issue(t, key, "mx.example.org")
	gone := errors.New("key process is gone")
	signer, err := NewSigner("mx.example.org", chain, func(context.Context, SignRequest) ([]byte, error) { return nil, gone })
	if err != nil {
		t.Fatal(err)
	}
	server := mustServer(t, Server{Certificates: []Certificate{{"mx.example.org", chain, signer}}})
	if _, err := handshake(t, server, mustClient(t, Client{ServerName: "mx.example.org"})); err == nil {
		t.Error("handshake without a signature")
	}
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	const a, b = tls.VersionTLS12, tls.VersionTLS13
	for _, tt := range []struct {
		in             string
		least, highest uint16
	}{
		{"tlsv1.2,tlsv1.3", a, b}, {"TLSv1.2,TLSv1.3", a, b}, {"tlsv1.3:tlsv1.2", a, b}, {"all", a, b}, {"secure", a, b},
		{"default", a, b}, {"legacy", a, b}, {"tlsv1", a, b}, {"!tlsv1.0", a, b}, {"all,!tlsv1.0", a, b},
		{"all,!tlsv1.3", a, a}, {"!tlsv1.3", a, a}, {"tlsv1.2", a, a}, {"tlsv1.3", b, b}, {"tlsv1.1, tlsv1.2", a, a},
		{"all !tlsv1.2", b, b},
		{"", 0, 0}, {"tlsv1.0", 0, 0}, {"tlsv1.1", 0, 0}, {"sslv3", 0, 0}, {"all,!all", 0, 0}, {"tlsv1.2,!tlsv1.2", 0, 0}, {"!", 0, 0},
	} {
		least, highest, err := ParseProtocols(tt.in)
		if least != tt.least || highest != tt.highest || (err == nil) != (tt.least != 0) {
			t.Errorf("ParseProtocols(%q) = %x, %x, %v; want %x, %x", tt.in, least, highest, err, tt.least, tt.highest)
		}
	}
}

func TestCiphers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		count int // of suites; -1: an error
		has   uint16
		lacks uint16
	}{
		{"HIGH:!aNULL:!MD5", 10, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA},
		{"HIGH:!aNULL:!eNULL:!EXPORT:!DES:!MD5:!PSK:!RC4:!3DES:@STRENGTH", 10, 0, 0},
		{"secure", 10, 0, 0}, {"default", 10, 0, 0}, {"ALL", 10, 0, 0},
		{"ECDHE-RSA-AES128-GCM-SHA256", 1, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 0},
		{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 1, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 0},
		{"ECDHE+AESGCM:ECDHE+CHACHA20", 6, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA},
		{"EECDH+AESGCM:EDH+AESGCM", 4, 0, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
		{"DHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384", 1, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, 0},
		{"HIGH !SHA1", 6, 0, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA},
		{"HIGH:!SHA:SHA", 6, 0, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA},
		{"HIGH:-SHA:ECDHE-RSA-AES128-SHA", 7, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
		{"AES128-SHA", 1, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 0},
		{"AES128-SHA:!kRSA:HIGH", 10, 0, tls.TLS_RSA_WITH_AES_128_CBC_SHA},
		{"HIGH:+SHA", 10, 0, 0},
		{"HIGH:TLS_AES_256_GCM_SHA384", 10, 0, 0},
		{"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256", 0, 0, 0},
		{"", -1, 0, 0}, {"nonsense", -1, 0, 0}, {"HIGH:!nonsense", -1, 0, 0}, {"ECDHE+nonsense", -1, 0, 0},
		{"HIGH:!ALL", -1, 0, 0}, {"RC4-SHA", -1, 0, 0}, {"aNULL", -1, 0, 0}, {"!", -1, 0, 0}, {"+", -1, 0, 0},
	} {
		got, err := ParseCiphers(tt.in)
		if (err != nil) != (tt.count < 0) || err == nil && len(got) != tt.count {
			t.Errorf("ParseCiphers(%q) = %d suites, %v; want %d", tt.in, len(got), err, tt.count)
			continue
		}
		has, lacks := tt.has == 0, true
		for _, id := range got {
			has = has || id == tt.has
			lacks = lacks && id != tt.lacks
		}
		if err == nil && (!has || !lacks) {
			t.Errorf("ParseCiphers(%q): has %v, lacks %v what it should", tt.in, has, lacks)
		}
	}
	if _, err := ParseCiphers("HIGH:!nonsense"); !strings.Contains(err.Error(), `"!nonsense"`) {
		t.Errorf("error %q does not name the word", err)
	}
}

// What parses leaves a choice of suites that crypto/tls knows, each once.
func FuzzParseCiphers(f *testing.F) {
	f.Add("HIGH:!aNULL:!MD5")
	f.Add("ECDHE+AESGCM:-SHA:+AES @STRENGTH")
	f.Fuzz(func(t *testing.T, list string) {
		ids, err := ParseCiphers(list)
		if err != nil {
			return
		}
		seen := make(map[uint16]bool)
		for _, id := range ids {
			if seen[id] || strings.HasPrefix(tls.CipherSuiteName(id), "0x") {
				t.Errorf("%q: suite %x twice or unknown", list, id)
			}
			seen[id] = true
		}
	})
}

// What parses is a range of TLS 1.2 and 1.3.
func FuzzParseProtocols(f *testing.F) {
	f.Add("all,!tlsv1.0")
	f.Fuzz(func(t *testing.T, list string) {
		least, highest, err := ParseProtocols(list)
		if err == nil && (least < tls.VersionTLS12 || highest > tls.VersionTLS13 || least > highest) {
			t.Errorf("%q: %x to %x", list, least, highest)
		}
	})
}

func BenchmarkSignEd25519(b *testing.B) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	store := NewKeyStore()
	store.Add("k", key)
	r := SignRequest{Key: "k", Digest: make([]byte, 130)}
	for b.Loop() {
		if _, err := store.Sign(r); err != nil {
			b.Fatal(err)
		}
	}
}
