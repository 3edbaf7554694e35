package dispatcher

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/dane"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// clientTLS returns the TLS of an outgoing connection, and what tells whether the
// host has proven who it is. A demand that is not met fails the handshake.
func (d *Dispatcher) clientTLS(t *relay.Target) (*tls.Config, func(*tls.ConnectionState) bool, error) {
	proven := func(*tls.ConnectionState) bool { return true }
	unproven := func(*tls.ConnectionState) bool { return false }
	keys := d.current.Load().keys
	tc := tlsconf.Client{ServerName: t.TLS.SNI, Protocols: t.Protocols, Ciphers: t.Ciphers}
	if t.PKI != "" {
		cert, ok := keys.certificates[t.PKI]
		if !ok {
			return nil, nil, fmt.Errorf("no certificate %q", t.PKI)
		}
		tc.Certificate = &cert
	}
	names := t.TLS.Names
	if len(names) == 0 {
		names = []string{strings.Trim(t.Host, "[]")}
	}
	if tc.ServerName == "" {
		if _, err := netip.ParseAddr(names[0]); err != nil {
			tc.ServerName = names[0]
		}
	}
	cfg, err := tc.Config()
	if err != nil {
		return nil, nil, err
	}
	switch t.TLS.Mode {
	case relay.Verified:
		roots, err := keys.roots(t.CA)
		if err != nil {
			return nil, nil, err
		}
		cfg.InsecureSkipVerify = true // verified below, for any of several names
		cfg.VerifyConnection = func(st tls.ConnectionState) error { return verify(st.PeerCertificates, roots, names) }
		return cfg, proven, nil
	case relay.DANE:
		records := make([]dane.Record, len(t.TLS.TLSA))
		for i, r := range t.TLS.TLSA {
			records[i] = dane.Record(r)
		}
		dane.Configure(cfg, records, names, nil)
		return cfg, proven, nil
	}
	return cfg, unproven, nil
}

// doubt tells what a policy under test has against the certificate of a host.
func (d *Dispatcher) doubt(t *relay.Target, st *tls.ConnectionState) error {
	roots, err := d.current.Load().keys.roots(t.CA)
	if err != nil {
		return nil // that is our trouble, not the domain's
	}
	return verify(st.PeerCertificates, roots, t.TLS.Names)
}

// verify checks a chain up to one of roots, nil for the system's, for one of names.
func verify(chain []*x509.Certificate, roots *x509.CertPool, names []string) error {
	if len(chain) == 0 {
		return errors.New("server shows no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return err
	}
	var err error
	for _, n := range names {
		if err = chain[0].VerifyHostname(n); err == nil {
			return nil
		}
	}
	return err
}
