package filter_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/opensmtpd/opensmtpd/filter"
)

// serveExample plays a daemon that asks these lines.
func serveExample(f *filter.Filter, lines ...string) {
	in := "config|protocol|0.7\nconfig|ready\n" + strings.Join(lines, "\n") + "\n"
	if err := f.Serve(context.Background(), strings.NewReader(in), withoutRegistrations{}); err != nil {
		fmt.Println(err)
	}
}

// withoutRegistrations prints what is not about registrations.
type withoutRegistrations struct{}

func (withoutRegistrations) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if !strings.HasPrefix(line, "register|") {
			if _, err := os.Stdout.WriteString(line); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// A filter that refuses some recipients. A program would call filter.Main(f).
func Example() {
	f := &filter.Filter{
		RcptTo: func(s *filter.Session, address string) filter.Verdict {
			if strings.HasPrefix(address, "noreply@") {
				return filter.Reject(550, "5.1.1", "Nobody reads this address")
			}
			return filter.Proceed()
		},
	}
	serveExample(f,
		"filter|0.7|1.000001|smtp-in|rcpt-to|6b22dfe431c7c0d2|03cb0a4a325aa765|noreply@example.org",
		"filter|0.7|1.000002|smtp-in|rcpt-to|6b22dfe431c7c0d2|03cb0a4a325aa765|joe@example.org")
	// Output:
	// filter-result|6b22dfe431c7c0d2|03cb0a4a325aa765|reject|550 5.1.1 Nobody reads this address
	// filter-result|6b22dfe431c7c0d2|03cb0a4a325aa765|proceed
}

// A filter that marks what comes from outside, and refuses what has no subject.
func ExampleFilter_message() {
	f := &filter.Filter{
		Message: func(s *filter.Session, m *filter.Message) filter.Verdict {
			if len(m.Values("Subject")) == 0 {
				return filter.Reject(550, "5.6.0", "A message needs a subject")
			}
			m.Remove("X-External", nil)
			if s.User == "" && !s.Local {
				m.Prepend("X-External", "yes")
			}
			return filter.Proceed()
		},
	}
	const head = "filter|0.7|1.000001|smtp-in|"
	const ids = "|6b22dfe431c7c0d2|03cb0a4a325aa765|"
	serveExample(f,
		head+"data-line"+ids+"Subject: hello",
		head+"data-line"+ids+"X-External: no",
		head+"data-line"+ids,
		head+"data-line"+ids+"..dots are stuffed",
		head+"data-line"+ids+".",
		head+"commit"+ids)
	// Output:
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|X-External: yes
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|Subject: hello
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|..dots are stuffed
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|.
	// filter-result|6b22dfe431c7c0d2|03cb0a4a325aa765|proceed
}

// A filter that counts the lines of a message, as they pass.
func ExampleFilter_dataLine() {
	type count struct{ lines int }
	f := &filter.Filter{
		OnTxBegin: func(s *filter.Session) { s.Tx.Data = new(count) },
		DataLine: func(s *filter.Session, line []byte, out *filter.Lines) {
			s.Tx.Data.(*count).lines++
			out.Line(line)
		},
		DataEnd: func(s *filter.Session, out *filter.Lines) {
			out.String(fmt.Sprintf("-- %d lines", s.Tx.Data.(*count).lines))
		},
	}
	const data = "filter|0.7|1.000001|smtp-in|data-line|6b22dfe431c7c0d2|03cb0a4a325aa765|"
	serveExample(f, "report|0.7|1.000000|smtp-in|tx-begin|6b22dfe431c7c0d2|45ef30e0", data, data+"hello", data+".")
	// Output:
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|hello
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|-- 2 lines
	// filter-dataline|6b22dfe431c7c0d2|03cb0a4a325aa765|.
}

// A verdict that is made elsewhere, while the session waits.
func ExampleLater() {
	ask := func(address string, answer func(known bool)) { answer(address == "joe@example.org") } // a slow service
	f := &filter.Filter{
		RcptTo: func(s *filter.Session, address string) filter.Verdict {
			verdict, decide := filter.Later()
			ask(address, func(known bool) {
				if known {
					decide(filter.Proceed())
				} else {
					decide(filter.Reject(550, "5.1.1", "No such user"))
				}
			})
			return verdict
		},
	}
	const rcpt = "filter|0.7|1.000001|smtp-in|rcpt-to|6b22dfe431c7c0d2|03cb0a4a325aa765|"
	serveExample(f, rcpt+"joe@example.org", rcpt+"jim@example.org")
	// Output:
	// filter-result|6b22dfe431c7c0d2|03cb0a4a325aa765|proceed
	// filter-result|6b22dfe431c7c0d2|03cb0a4a325aa765|reject|550 5.1.1 No such user
}
