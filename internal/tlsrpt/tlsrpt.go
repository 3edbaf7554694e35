// Package tlsrpt tells the owners of domains how TLS with their mail hosts went
// (SMTP TLS Reporting, RFC 8460). It counts sessions by domain, day and policy,
// finds out from the domain's TXT record who wants to know, and composes the
// reports: JSON, compressed, in a mail message. When to send them, and sending, is
// the business of others.
//
//	_smtp._tls.example.org. IN TXT "v=TLSRPTv1; rua=mailto:tls@example.org"
//
// A day is from midnight to midnight UTC (section 4.1). All counts are bounded:
// beyond the bounds sessions are counted without details, or not at all.
package tlsrpt

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"unicode"
)

// Policy types (RFC 8460 section 4.4).
const (
	TypeDANE = "tlsa"
	TypeSTS  = "sts"
	TypeNone = "no-policy-found"
)

// Policy is what a domain asks of the connections to its mail hosts.
type Policy struct {
	Type    string   `json:"policy-type"`
	Strings []string `json:"policy-string,omitempty"` // TLSA records, or the lines of an MTA-STS policy
	Domain  string   `json:"policy-domain"`           // whose policy it is: of the mail's domain, for TLSA of a host
	MX      []string `json:"mx-host,omitempty"`       // patterns of an MTA-STS policy
}

// Result is what went wrong with a session (RFC 8460 section 4.3).
type Result string

const (
	StartTLSNotSupported    Result = "starttls-not-supported"
	CertificateHostMismatch Result = "certificate-host-mismatch"
	CertificateExpired      Result = "certificate-expired"
	CertificateNotTrusted   Result = "certificate-not-trusted"
	ValidationFailure       Result = "validation-failure" // any other
	TLSAInvalid             Result = "tlsa-invalid"
	DNSSECInvalid           Result = "dnssec-invalid"
	DANERequired            Result = "dane-required"
	STSPolicyFetchError     Result = "sts-policy-fetch-error"
	STSPolicyInvalid        Result = "sts-policy-invalid"
	STSWebPKIInvalid        Result = "sts-webpki-invalid"
)

// ResultOf returns what the error of a TLS handshake or of the check of a
// certificate is called in reports.
func ResultOf(err error) Result {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return CertificateHostMismatch
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return CertificateNotTrusted
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return CertificateExpired
		}
		return CertificateNotTrusted
	}
	return ValidationFailure
}

// Event is one session with a mail host, or a failure before there was one.
type Event struct {
	Domain  string // of the mail; it gets the report
	Policy  Policy
	Failure Result     // empty: success
	Source  netip.Addr // ours
	MX      string     // name of the host
	HELO    string     // what the host called itself
	Addr    netip.Addr // of the host
	Reason  string     // more about the failure, for people
}

// maxReason bounds the reason of a failure, in bytes.
const maxReason = 200

// Reason returns what an error says, cut and without control characters. It is for
// errors that tell of the other side only: the report leaves this host.
func Reason(err error) string { return clean(err.Error(), maxReason) }

// clean returns at most limit bytes of s as valid UTF-8 without control characters.
func clean(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
