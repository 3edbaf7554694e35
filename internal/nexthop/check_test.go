package nexthop

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/dane"
)

func TestCertificateThatALevelDemands(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	s.Close()
	cert := s.Certificate() // for example.com, *.example.com, 127.0.0.1 and ::1
	now := cert.NotBefore.AddDate(0, 0, 1)
	late := cert.NotAfter.AddDate(1, 0, 0)
	known := x509.NewCertPool()
	known.AddCert(cert)
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	good := []dane.Record{{Usage: 3, Selector: 1, Matching: 1, Data: sum[:]}}
	bad := []dane.Record{{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}}
	for _, tt := range []struct {
		name  string
		s     Security
		roots *x509.CertPool
		none  bool // no certificate is shown
		late  bool
		ok    bool
	}{
		{"opportunistic", Security{}, x509.NewCertPool(), true, false, true},
		{"encrypted", Security{TLS: Encrypted}, x509.NewCertPool(), false, true, true},
		{"verified", Security{TLS: Verified, Names: []string{"mx.example.com"}}, known, false, false, true},
		{"second name", Security{TLS: Verified, Names: []string{"x.example.org", "example.com"}}, known, false, false, true},
		{"address", Security{TLS: Verified, Names: []string{"127.0.0.1"}}, known, false, false, true},
		{"another address", Security{TLS: Verified, Names: []string{"127.0.0.2"}}, known, false, false, false},
		{"another name", Security{TLS: Verified, Names: []string{"mx.example.org"}}, known, false, false, false},
		{"no name", Security{TLS: Verified}, known, false, false, false},
		{"unknown authority", Security{TLS: Verified, Names: []string{"mx.example.com"}}, x509.NewCertPool(), false, false, false},
		{"expired", Security{TLS: Verified, Names: []string{"mx.example.com"}}, known, false, true, false},
		{"no certificate", Security{TLS: Verified, Names: []string{"mx.example.com"}}, known, true, false, false},
		{"testing, good", Security{Testing: true, Names: []string{"mx.example.com"}}, known, false, false, true},
		{"testing, bad", Security{Testing: true, Names: []string{"mx.example.com"}}, x509.NewCertPool(), false, false, false},
		{"DANE", Security{TLS: DANE, Records: good}, x509.NewCertPool(), false, true, true},
		{"DANE, another key", Security{TLS: DANE, Records: bad, Names: []string{"mx.example.com"}}, known, false, false, false},
	} {
		state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		if tt.none {
			state.PeerCertificates = nil
		}
		at := now
		if tt.late {
			at = late
		}
		if err := tt.s.Check(state, tt.roots, at); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success %v", tt.name, err, tt.ok)
		}
	}
}
