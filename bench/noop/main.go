// Noop is a filter that lets everything pass, for the script filter: its first argument
// says how much it has to do with each session.
//
//	verdicts   it is asked in each phase but data-line
//	phases     in each phase
//	events     in each phase, and it is told of each event
package main

import (
	"os"

	"github.com/opensmtpd/opensmtpd/filter"
)

type session = filter.Session

func main() {
	how := "phases"
	if len(os.Args) > 1 {
		how = os.Args[1]
	}
	pass := func(*session) filter.Verdict { return filter.Proceed() }
	passArgument := func(*session, string) filter.Verdict { return filter.Proceed() }
	f := &filter.Filter{
		Connect: pass, Helo: passArgument, Ehlo: passArgument, StartTLS: pass, Auth: passArgument, MailFrom: passArgument,
		RcptTo: passArgument, Data: pass, Commit: pass, Rset: pass, Noop: pass, Quit: pass,
	}
	if how != "verdicts" {
		f.DataLine = func(_ *session, line []byte, out *filter.Lines) { out.Line(line) }
	}
	if how == "events" {
		hear(f)
	}
	filter.Main(f)
}

// hear has the filter told of all events.
func hear(f *filter.Filter) {
	f.OnTxData = func(*session, filter.Result) {}
	f.OnTxCommit = func(*session, int64) {}
	f.OnTxRollback = func(*session) {}
	f.OnProtocolClient = func(*session, string) {}
	f.OnProtocolServer = func(*session, string) {}
	f.OnFilterReport = func(*session, string, string, string) {}
	f.OnFilterResponse = func(*session, string, string, string) {}
	f.OnTimeout = func(*session) {}
}
