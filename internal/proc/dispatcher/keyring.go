package dispatcher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// keyring is the certificates of a configuration; their keys are in the key process.
type keyring struct {
	certificates map[string]tlsconf.Certificate
	authorities  map[string][]byte
}

func (d *Dispatcher) keyring(c *proto.DispatcherConfig) (*keyring, error) {
	k := &keyring{certificates: map[string]tlsconf.Certificate{}, authorities: map[string][]byte{}}
	for _, cert := range c.Certificates {
		signer, err := tlsconf.NewSigner(cert.KeyName, cert.PEM, d.sign)
		if err != nil {
			return nil, err
		}
		k.certificates[cert.Name] = tlsconf.Certificate{Name: cert.Name, Chain: cert.PEM, Key: signer}
	}
	for _, a := range c.Authorities {
		k.authorities[a.Name] = a.PEM
	}
	return k, nil
}

// sign has the key process sign.
func (d *Dispatcher) sign(ctx context.Context, req tlsconf.SignRequest) ([]byte, error) {
	r, err := proc.Ask(ctx, d.p.Links, proto.Key, proto.Sign, proto.SignRequest{Key: req.Key, Hash: req.Hash, PSS: req.PSS, Digest: req.Digest})
	return r.Signature, err
}

// roots returns the authorities to verify other hosts with, nil for the system's.
func (k *keyring) roots(ca string) (*x509.CertPool, error) {
	if ca == "" {
		return nil, nil
	}
	pem, ok := k.authorities[ca]
	if !ok {
		return nil, fmt.Errorf("no ca %q", ca)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca %q holds no certificate", ca)
	}
	return pool, nil
}

// serverConfig returns the TLS of a listener.
func (k *keyring) serverConfig(c *proto.DispatcherConfig, l *proto.Listener) (*tls.Config, error) {
	s := tlsconf.Server{Protocols: l.Protocols, Ciphers: l.Ciphers, ClientCAs: k.authorities[l.CA], Verify: l.VerifyPeer}
	if s.Ciphers == "" {
		s.Ciphers = c.Ciphers
	}
	for _, name := range l.PKI {
		cert, ok := k.certificates[name]
		if !ok {
			return nil, fmt.Errorf("no certificate %q", name)
		}
		s.Certificates = append(s.Certificates, cert)
	}
	return s.Config()
}
