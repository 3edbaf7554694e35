package mtasts

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
)

// MaxEntry is the size of the largest text form of an Entry, in bytes.
const MaxEntry = maxHead + 1 + maxText

// Entry is a policy as it is kept. Its text form is
//
//	mta-sts 1 ID SECONDS-SINCE-1970 DOMAIN
//	the policy text …
type Entry struct {
	Domain  string
	ID      string // of the TXT record that announced it
	Fetched time.Time
	Text    []byte
}

// maxHead bounds the first line of an entry, in bytes.
const maxHead = 512

// Append appends the text form of e.
func (e Entry) Append(b []byte) []byte {
	b = fmt.Appendf(b, "mta-sts 1 %s %d %s\n", e.ID, e.Fetched.Unix(), e.Domain)
	return append(b, e.Text...)
}

// errEntry says that what a store holds is no entry.
var errEntry = errors.New("malformed stored policy")

// ParseEntry parses the text form of an entry; the policy is not looked at.
func ParseEntry(b []byte) (Entry, error) {
	head, text, ok := bytes.Cut(b, []byte("\n"))
	if !ok || len(head) > maxHead || len(text) > maxText {
		return Entry{}, errEntry
	}
	f := strings.Split(string(head), " ")
	if len(f) != 5 || f[0] != "mta-sts" || f[1] != "1" || !validID(f[2]) || !storable(f[4]) {
		return Entry{}, errEntry
	}
	seconds, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 || f[3] != strconv.FormatInt(seconds, 10) {
		return Entry{}, errEntry
	}
	return Entry{Domain: f[4], ID: f[2], Fetched: time.Unix(seconds, 0), Text: text}, nil
}

// storable tells whether domain, in lower case, can be the name of a record.
func storable(domain string) bool {
	return dns.ValidName(domain) && !strings.HasSuffix(domain, ".") && domain == strings.ToLower(domain) && len(domain) <= 240
}
