// Package tlsconf makes the TLS configurations of listeners and relays from what
// smtpd.conf says: certificates chosen by the name a client asks for, protocol and
// cipher strings in the manner of OpenSSL and libtls, demands on client
// certificates. Files are read, and their owners and modes checked, by root before
// it is given up; afterwards only bytes are handed around.
//
// A private key never reaches the process that speaks TLS. That process holds a
// Signer, which sends each request to sign to the key process, where a KeyStore
// answers it.
//
// TLS 1.2 is the least that is spoken (RFC 8996). Session tickets are not issued:
// some clients drop a session over the messages that carry them.
package tlsconf

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// Certificate is what a pki directive stands for.
type Certificate struct {
	Name  string        // of the pki: a host name, "*.domain", or "*"
	Chain []byte        // PEM, the certificate of the key first
	Key   crypto.Signer // signs for that certificate; a Signer, or the key itself
}

// Server describes the TLS of a listener.
type Server struct {
	Certificates []Certificate // by SNI; the first is for all other names
	Protocols    string        // "" for TLS 1.2 and 1.3, see ParseProtocols
	Ciphers      string        // "" for the default, see ParseCiphers
	ClientCAs    []byte        // PEM; whose client certificates are good
	Verify       bool          // a client must have a good certificate
}

// Config returns the configuration of s.
func (s Server) Config() (*tls.Config, error) {
	if len(s.Certificates) == 0 {
		return nil, errors.New("TLS without a certificate")
	}
	cfg, err := base(s.Protocols, s.Ciphers)
	if err != nil {
		return nil, err
	}
	choice, err := newChoice(s.Certificates)
	if err != nil {
		return nil, err
	}
	cfg.GetCertificate = choice.get
	cfg.SessionTicketsDisabled = true
	if s.Verify {
		if len(s.ClientCAs) == 0 {
			return nil, errors.New("client certificates are to be verified, but no ca is given")
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if len(s.ClientCAs) > 0 {
		if cfg.ClientCAs, err = pool(s.ClientCAs); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// Client describes the TLS of an outgoing connection.
type Client struct {
	ServerName  string       // host name or IP address the certificate must be for
	Verify      bool         // the server's certificate must be good
	Roots       []byte       // PEM; "" for the system's
	Certificate *Certificate // presented when the server asks; may be nil
	Protocols   string
	Ciphers     string
}

// Config returns the configuration of c. Without Verify any certificate does:
// opportunistic TLS (RFC 7435) hides the text from who only listens.
func (c Client) Config() (*tls.Config, error) {
	cfg, err := base(c.Protocols, c.Ciphers)
	if err != nil {
		return nil, err
	}
	cfg.ServerName = c.ServerName
	cfg.InsecureSkipVerify = !c.Verify
	if c.Verify && c.ServerName == "" {
		return nil, errors.New("server certificate is to be verified, but the name of the server is unknown")
	}
	if len(c.Roots) > 0 {
		if cfg.RootCAs, err = pool(c.Roots); err != nil {
			return nil, err
		}
	}
	if c.Certificate != nil {
		cert, err := c.Certificate.load()
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{*cert}
	}
	return cfg, nil
}

// base returns a configuration with protocols and cipher suites set.
func base(protocols, ciphers string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if protocols != "" {
		if cfg.MinVersion, cfg.MaxVersion, err = ParseProtocols(protocols); err != nil {
			return nil, err
		}
	}
	if ciphers == "" {
		return cfg, nil
	}
	if cfg.CipherSuites, err = ParseCiphers(ciphers); err != nil {
		return nil, err
	}
	if len(cfg.CipherSuites) == 0 {
		// Only suites of TLS 1.3 are named.
		if cfg.MaxVersion == tls.VersionTLS12 {
			return nil, fmt.Errorf("ciphers %q hold nothing for TLS 1.2, which protocols %q ask for", ciphers, protocols)
		}
		cfg.CipherSuites, cfg.MinVersion = nil, tls.VersionTLS13
	}
	return cfg, nil
}

// pool returns the certificates of a PEM text.
func pool(text []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(text) {
		return nil, errors.New("ca holds no certificate")
	}
	return p, nil
}

// load parses the chain and checks that the key belongs to it.
func (c Certificate) load() (*tls.Certificate, error) {
	chain, err := parseChain(c.Chain)
	if err != nil {
		return nil, fmt.Errorf("pki %s: %w", c.Name, err)
	}
	if c.Key == nil {
		return nil, fmt.Errorf("pki %s: no key", c.Name)
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(c.Key.Public()) {
		return nil, fmt.Errorf("pki %s: key and certificate do not belong together", c.Name)
	}
	cert := &tls.Certificate{PrivateKey: c.Key, Leaf: chain[0]}
	for _, x := range chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	return cert, nil
}

// choice chooses a certificate by the name a client asks for (RFC 6066 section 3).
// It does not change once made.
type choice struct {
	all    []*tls.Certificate
	byName map[string][]*tls.Certificate // lower case; "*.domain" for any name below it
}

// newChoice loads the certificates. Each answers to the name of its pki and to the
// names it is issued for, the former first.
func newChoice(certs []Certificate) (*choice, error) {
	c := &choice{byName: make(map[string][]*tls.Certificate)}
	for _, pki := range certs {
		cert, err := pki.load()
		if err != nil {
			return nil, err
		}
		c.all = append(c.all, cert)
		c.add(pki.Name, cert)
	}
	for i := range certs {
		for _, name := range c.all[i].Leaf.DNSNames {
			c.add(name, c.all[i])
		}
	}
	return c, nil
}

// add makes cert answer to name.
func (c *choice) add(name string, cert *tls.Certificate) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, have := range c.byName[name] {
		if have == cert {
			return
		}
	}
	c.byName[name] = append(c.byName[name], cert)
}

// get returns the certificate for a client: of those that answer to the name it
// asks for, exactly or by a wildcard for one label (RFC 6125 section 6.4.3), the
// first it can use; else the first it can use at all; else the first.
func (c *choice) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	lists := [...][]*tls.Certificate{c.byName[name], nil, c.byName["*"], c.all}
	if _, parent, ok := strings.Cut(name, "."); ok {
		lists[1] = c.byName["*."+parent]
	}
	if name == "" {
		lists[0], lists[2] = nil, nil // the first certificate is the default
	}
	for _, list := range lists {
		for _, cert := range list {
			if usable(hello, cert) {
				return cert, nil
			}
		}
	}
	return c.all[0], nil
}

// usable tells whether a client can use a certificate, whatever name it is for.
func usable(hello *tls.ClientHelloInfo, cert *tls.Certificate) bool {
	nameless := *hello
	nameless.ServerName = ""
	return nameless.SupportsCertificate(cert) == nil
}
