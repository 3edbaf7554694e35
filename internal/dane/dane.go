// Package dane checks the certificate of a mail server against the TLSA records of
// its name (RFC 6698, RFC 7671, and for SMTP RFC 7672). It looks nothing up: the
// records come as data from who may ask the DNS, and only records that DNSSEC has
// validated may be given to it.
//
//	_25._tcp.mx.example.org. IN TLSA 3 1 1 SHA-256-OF-THE-PUBLIC-KEY
//
// Usage 3 names the server's certificate or key: neither its name, nor its dates,
// nor who signed it matter (RFC 7672 section 3.1.1). Usage 2 names an authority:
// the server must send a chain up to it that is valid today and whose first
// certificate is for one of the expected names (section 3.1.2).
package dane

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Errors of a check. Those of crypto/x509 may be wrapped too.
var (
	ErrNoCertificate = errors.New("server shows no certificate")
	ErrNoRecord      = errors.New("no usable TLSA record")
	ErrMismatch      = errors.New("no TLSA record matches the certificate of the server")
)

// maxChain bounds the certificates of a chain that are looked at.
const maxChain = 16

// Verify checks a chain, the server's certificate first, against records at the
// time now. names are those the certificate may have when usage 2 matches: the
// name of the TLSA records, and for MX hosts also the domain that the mail is for.
func Verify(chain []*x509.Certificate, records []Record, names []string, now time.Time) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	records = Usable(records)
	if len(records) == 0 {
		return ErrNoRecord
	}
	chain = chain[:min(len(chain), maxChain)]
	for _, r := range records {
		if r.Usage == usageEE && r.matches(chain[0]) {
			return nil
		}
	}
	anchors, found := x509.NewCertPool(), false
	for _, r := range records {
		if r.Usage != usageTA {
			continue
		}
		for _, c := range chain {
			if r.matches(c) {
				anchors.AddCert(c)
				found = true
			}
		}
		// A server need not send an authority that the record holds whole.
		if r.Selector == selectCert && r.Matching == matchFull {
			if c, err := x509.ParseCertificate(r.Data); err == nil {
				anchors.AddCert(c)
				found = true
			}
		}
	}
	if !found {
		return ErrMismatch
	}
	return verifyTA(chain, anchors, names, now)
}

// verifyTA checks that chain leads to one of anchors and is for one of names.
func verifyTA(chain []*x509.Certificate, anchors *x509.CertPool, names []string, now time.Time) error {
	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: anchors, Intermediates: others, CurrentTime: now})
	if err != nil {
		return fmt.Errorf("authority named by TLSA: %w", err)
	}
	err = x509.HostnameError{Certificate: chain[0]}
	for _, name := range names {
		if err = chain[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return fmt.Errorf("authority named by TLSA: %w", err)
}

// Configure makes cfg check the server by records and names instead of by the
// authorities it knows. now tells the time; nil means time.Now.
func Configure(cfg *tls.Config, records []Record, names []string, now func() time.Time) {
	if now == nil {
		now = time.Now
	}
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		return Verify(s.PeerCertificates, records, names, now())
	}
}
