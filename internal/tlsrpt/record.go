package tlsrpt

import (
	"errors"
	"net/url"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// ErrNoRecord says that a domain wants no reports.
var ErrNoRecord = errors.New("no TLSRPT record")

// Destinations is who wants the reports of a domain.
type Destinations struct {
	Mail []smtp.Path
	Web  []string // https URLs to POST to
}

// maxDestinations bounds the URIs of a record that are used.
const maxDestinations = 8

// RecordName returns the name at which the TXT record of a domain is.
func RecordName(domain string) string { return "_smtp._tls." + domain }

// ParseRecord returns the destinations that the TXT records of RecordName ask for
// (RFC 8460 section 3). Exactly one of them must be a TLSRPT record. URIs of other
// schemes, and malformed ones, are passed over; when none is left, that is
// ErrNoRecord too.
func ParseRecord(texts []string) (Destinations, error) {
	var record string
	found := 0
	for _, text := range texts {
		version, rest, ok := strings.Cut(text, ";")
		if ok && strings.TrimRight(version, " \t") == "v=TLSRPTv1" {
			record = rest
			found++
		}
	}
	if found != 1 {
		return Destinations{}, ErrNoRecord
	}
	var d Destinations
	for field := range strings.SplitSeq(record, ";") {
		name, value, ok := strings.Cut(strings.Trim(field, " \t"), "=")
		if !ok || strings.TrimRight(name, " \t") != "rua" {
			continue
		}
		for uri := range strings.SplitSeq(value, ",") {
			if len(d.Mail)+len(d.Web) < maxDestinations {
				d.add(strings.Trim(uri, " \t"))
			}
		}
		break
	}
	if len(d.Mail)+len(d.Web) == 0 {
		return Destinations{}, ErrNoRecord
	}
	return d, nil
}

// add adds the destination of a URI, if it is one.
func (d *Destinations) add(uri string) {
	u, err := url.Parse(uri)
	if err != nil || len(uri) > 1023 {
		return
	}
	switch strings.ToLower(u.Scheme) {
	case "mailto":
		text, err := url.PathUnescape(u.Opaque)
		if err != nil {
			return
		}
		if p, err := smtp.ParseMailbox(text); err == nil && p.Domain != "" && p.ASCII() {
			d.Mail = append(d.Mail, p)
		}
	case "https":
		if smtp.IsHostName(u.Hostname()) && u.User == nil {
			d.Web = append(d.Web, u.String())
		}
	}
}
