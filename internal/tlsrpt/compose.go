package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Reporter is who sends reports.
type Reporter struct {
	Organization string
	Contact      string // where its people are reached, such as an address
	Host         string // name of this host, the submitter
}

// report, entry, counts and failure are the JSON of RFC 8460 section 4.4.
type report struct {
	Organization string    `json:"organization-name"`
	Range        dateRange `json:"date-range"`
	Contact      string    `json:"contact-info,omitempty"`
	ID           string    `json:"report-id"`
	Policies     []entry   `json:"policies"`
}

type dateRange struct {
	Start string `json:"start-datetime"`
	End   string `json:"end-datetime"`
}

type entry struct {
	Policy   Policy    `json:"policy"`
	Summary  counts    `json:"summary"`
	Failures []failure `json:"failure-details,omitempty"`
}

type counts struct {
	Success int64 `json:"total-successful-session-count"`
	Failure int64 `json:"total-failure-session-count"`
}

type failure struct {
	Result Result `json:"result-type"`
	Source string `json:"sending-mta-ip,omitempty"`
	MX     string `json:"receiving-mx-hostname,omitempty"`
	HELO   string `json:"receiving-mx-helo,omitempty"`
	Addr   string `json:"receiving-ip,omitempty"`
	Count  int64  `json:"failed-session-count"`
	Reason string `json:"failure-reason-code,omitempty"`
}

// end returns the last second of the day of s.
func (s *Summary) end() time.Time { return s.Day.UTC().Add(24*time.Hour - time.Second) }

// ID returns the identifier of the report on s, the same whenever it is made.
func (r Reporter) ID(s *Summary) string {
	return s.Day.UTC().Format("20060102") + "." + s.Domain + "@" + r.Host
}

// JSON returns the report on s.
func (r Reporter) JSON(s *Summary) ([]byte, error) {
	out := report{
		Organization: r.Organization,
		Range:        dateRange{s.Day.UTC().Format(time.RFC3339), s.end().Format(time.RFC3339)},
		Contact:      r.Contact,
		ID:           r.ID(s),
		Policies:     []entry{},
	}
	for _, p := range s.Policies {
		e := entry{Policy: p.Policy, Summary: counts{p.Success, p.Failure}}
		for _, d := range p.Failures {
			e.Failures = append(e.Failures, failure{d.Result, text(d.Source), d.MX, d.HELO, text(d.Addr), d.Count, d.Reason})
		}
		out.Policies = append(out.Policies, e)
	}
	return json.Marshal(out)
}

// text returns an address, empty for the zero one.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Gzip is the media type of what Compressed returns, for an HTTPS destination (RFC
// 8460 section 5.4).
const Gzip = "application/tlsrpt+gzip"

// Compressed returns the report on s compressed by gzip.
func (r Reporter) Compressed(s *Summary) ([]byte, error) {
	plain, err := r.JSON(s)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// FileName returns the name of the report on s (RFC 8460 section 5.1).
func (r Reporter) FileName(s *Summary) string {
	return fmt.Sprintf("%s!%s!%d!%d!001.json.gz", r.Host, s.Domain, s.Day.Unix(), s.end().Unix())
}

// Message returns the report on s as a mail message from one address to another
// (RFC 8460 sections 5.2 and 5.3), with CRLF line ends. It is to be signed by DKIM
// and to be delivered whether or not TLS works (section 3), which its TLS-Required
// field asks for (RFC 8689).
func (r Reporter) Message(s *Summary, from, to smtp.Path, date time.Time) ([]byte, error) {
	data, err := r.Compressed(s)
	if err != nil {
		return nil, err
	}
	id := r.ID(s)
	boundary := fmt.Sprintf("=_tlsrpt_%d", s.Day.Unix())
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: <%s>", from)
	line("To: <%s>", to)
	line("Date: %s", date.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	line("Message-ID: <tlsrpt.%d.%s>", date.UnixNano(), id)
	line("Subject: Report Domain: %s", s.Domain)
	line(" Submitter: %s", r.Host)
	line(" Report-ID: <%s>", id)
	line("TLS-Report-Domain: %s", s.Domain)
	line("TLS-Report-Submitter: %s", r.Host)
	line("TLS-Required: No")
	line("Auto-Submitted: auto-generated")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=\"tlsrpt\";")
	line("\tboundary=\"%s\"", boundary)
	line("")
	line("--%s", boundary)
	line("Content-Type: text/plain; charset=us-ascii")
	line("")
	line("This is an aggregate TLS report from %s", r.Host)
	line("about mail for %s", s.Domain)
	line("on %s, UTC.", s.Day.UTC().Format(time.DateOnly))
	line("")
	line("--%s", boundary)
	line("Content-Type: %s", Gzip)
	line("Content-Transfer-Encoding: base64")
	line("Content-Disposition: attachment;")
	line("\tfilename=\"%s\"", r.FileName(s))
	line("")
	encoded := base64.StdEncoding.EncodeToString(data)
	for len(encoded) > 76 {
		line("%s", encoded[:76])
		encoded = encoded[76:]
	}
	line("%s", encoded)
	line("")
	line("--%s--", boundary)
	return b.Bytes(), nil
}
