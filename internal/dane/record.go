package dane

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
)

// Record is a certificate association (RFC 6698 section 2.1).
type Record struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// Certificate usages that mean something for SMTP (RFC 7672 section 3.1). Usages 0
// and 1 are about public authorities, of which no list is agreed on, and are
// unusable.
const (
	usageTA = 2 // the certificate of an authority of the domain's choice
	usageEE = 3 // the server's own
)

// Selectors: what of the certificate is compared.
const (
	selectCert = 0 // all of it
	selectKey  = 1 // SubjectPublicKeyInfo
)

// Matching types.
const (
	matchFull   = 0
	matchSHA256 = 1
	matchSHA512 = 2
)

// Bounds of what is used of a TLSA record set.
const (
	MaxRecords = 16
	maxData    = 8192 // bytes; of a whole certificate
)

// String returns the record as in a master file, the data in hexadecimal.
func (r Record) String() string {
	return fmt.Sprintf("%d %d %d %x", r.Usage, r.Selector, r.Matching, r.Data)
}

// usable tells whether r says something that can be checked.
func (r Record) usable() bool {
	if r.Usage != usageTA && r.Usage != usageEE || r.Selector > selectKey {
		return false
	}
	switch r.Matching {
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	case matchFull:
		if len(r.Data) > maxData {
			return false
		}
		if r.Selector == selectCert {
			_, err := x509.ParseCertificate(r.Data)
			return err == nil
		}
		_, err := x509.ParsePKIXPublicKey(r.Data)
		return err == nil
	}
	return false
}

// Usable returns the records of a set that can be checked, MaxRecords at most. Of
// digests with the same usage and selector only the strongest kind is kept (RFC
// 7671 section 9). An empty result for a set that is not empty asks for TLS without
// a check (RFC 7672 section 2.2).
func Usable(records []Record) []Record {
	var strong [4][2]bool // by usage and selector: there is a SHA-512 digest
	var out []Record
	for _, r := range records {
		if r.usable() && len(out) < MaxRecords {
			out = append(out, r)
			if r.Matching == matchSHA512 {
				strong[r.Usage][r.Selector] = true
			}
		}
	}
	kept := out[:0]
	for _, r := range out {
		if r.Matching != matchSHA256 || !strong[r.Usage][r.Selector] {
			kept = append(kept, r)
		}
	}
	return kept
}

// matches tells whether r is about the certificate c.
func (r Record) matches(c *x509.Certificate) bool {
	data := c.Raw
	if r.Selector == selectKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case matchFull:
		return bytes.Equal(data, r.Data)
	case matchSHA256:
		sum := sha256.Sum256(data)
		return bytes.Equal(sum[:], r.Data)
	case matchSHA512:
		sum := sha512.Sum512(data)
		return bytes.Equal(sum[:], r.Data)
	}
	return false
}
