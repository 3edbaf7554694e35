package nexthop

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dane"
)

// Check tells whether the certificate shown in a handshake is what s demands, or,
// when s is Testing, what its policy would demand. roots are the authorities to
// believe, nil for those of the system. Where s demands nothing there is no error.
func (s *Security) Check(state *tls.ConnectionState, roots *x509.CertPool, now time.Time) error {
	chain := state.PeerCertificates
	switch {
	case s.TLS == DANE:
		return dane.Verify(chain, s.Records, s.Names, now)
	case s.TLS != Verified && !s.Testing:
		return nil
	case len(chain) == 0:
		return dane.ErrNoCertificate
	}
	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: now}); err != nil {
		return err
	}
	err := errors.New("no name is known that the certificate must have")
	for _, name := range s.Names {
		if err = chain[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return err
}
