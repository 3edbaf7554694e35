// Package tlsrpt counts how TLS with mail hosts went.
package tlsrpt

import (
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
	Type    string
	Domain  string   // whose policy it is: of the MX hosts' domain, for TLSA the host's name
	Strings []string // TLSA records, or the lines of an MTA-STS policy
	MX      []string // patterns of an MTA-STS policy
}

// Result is what went wrong with a session (RFC 8460 section 4.3).
type Result string

const (
	StartTLSNotSupported    Result = "starttls-not-supported"
	CertificateHostMismatch Result = "certificate-host-mismatch"
	CertificateExpired      Result = "certificate-expired"
	CertificateNotTrusted   Result = "certificate-not-trusted"
	ValidationFailure       Result = "validation-failure"
	TLSAInvalid             Result = "tlsa-invalid"
	DNSSECInvalid           Result = "dnssec-invalid"
	DANERequired            Result = "dane-required"
	STSPolicyFetchError     Result = "sts-policy-fetch-error"
	STSPolicyInvalid        Result = "sts-policy-invalid"
	STSWebPKIInvalid        Result = "sts-webpki-invalid"
)

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

// Reason returns what an error says, cut and without control characters.
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
	}, strings.ToValidUTF8(s, "?"))
}
