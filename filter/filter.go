// Package filter makes a mail filter out of functions. A filter is a program that the
// daemon starts and asks: may this client connect, is that recipient welcome, what of
// this message. It runs under this project's daemon and under OpenSMTPD from 6.6 on.
//
//	func main() {
//		filter.Main(&filter.Filter{
//			RcptTo: func(s *filter.Session, address string) filter.Verdict {
//				if strings.HasPrefix(address, "noreply@") {
//					return filter.Reject(550, "5.1.1", "nobody reads this address")
//				}
//				return filter.Proceed()
//			},
//		})
//	}
//
// What is set in [Filter] is what the daemon is told to ask and report; the rest costs
// nothing. Functions for one session are called one after another, in the order of
// events; those for different sessions run at the same time. A function may take its
// time, look things up in the DNS with the methods of [Session], or return a verdict
// that is made later, with [Later]: only its own session waits.
//
// Everything the protocol tells about a session is kept in [Session] and, between MAIL
// and the end of the message, in [Transaction]. Both have a field Data for the filter's
// own use.
//
// A message is seen as a stream of lines, with DataLine, or as a whole that can be read
// and changed, with Message.
//
// Out holds the functions for mail that goes out. Decisions on it are an extension of
// this project's daemon; under others, only its reports are called.
//
// What is written with [Session.Logf] appears in the log of the daemon. Standard output
// belongs to the protocol.
package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Result is the outcome of a check or a command: one of the constants below.
type Result = wire.Result

// The results. Links (confirmed reverse names, authentication) and transactions have
// different words.
const (
	Pass  = wire.Pass
	Fail  = wire.Fail
	Error = wire.Error

	OK       = wire.OK
	PermFail = wire.PermFail
	TempFail = wire.TempFail
)

// Filter is a filter: functions, of which those that are set are called, and options.
// It must not be changed once it is served.
type Filter struct {
	// The functions that decide about commands before they take effect.
	Connect  func(s *Session) Verdict                  // RDNS, Source are known
	Helo     func(s *Session, name string) Verdict     // HELO
	Ehlo     func(s *Session, name string) Verdict     // EHLO
	StartTLS func(s *Session) Verdict                  // before the handshake
	Auth     func(s *Session, argument string) Verdict // of the AUTH command; the daemon may hide secrets
	MailFrom func(s *Session, address string) Verdict  // without <> and parameters
	RcptTo   func(s *Session, address string) Verdict  // without <> and parameters
	Data     func(s *Session) Verdict                  // Tx.Recipients are the accepted ones
	Commit   func(s *Session) Verdict                  // the last chance to refuse the message
	Rset     func(s *Session) Verdict
	Noop     func(s *Session) Verdict
	Quit     func(s *Session) Verdict
	Help     func(s *Session) Verdict // for completeness: not asked by any known daemon
	Wiz      func(s *Session) Verdict // for completeness: not asked by any known daemon

	// DataLine is called for each line of a message and writes to out what takes its
	// place: the line itself, nothing, or any lines. The line has no line end and no
	// stuffed dot and is valid during the call. DataEnd is called behind the last line.
	// Either may be set without the other; lines then pass unchanged.
	DataLine func(s *Session, line []byte, out *Lines)
	DataEnd  func(s *Session, out *Lines)

	// Message is called with a whole message, which it may change. What it returns is
	// the answer at commit; when that is Proceed or Junk, Commit decides. While it is to be
	// made later, the message waits. It cannot be set together with DataLine or DataEnd.
	Message func(s *Session, m *Message) Verdict

	// The functions that are told what happened. Session and Transaction hold it
	// already when they are called.
	OnLinkConnect    func(s *Session)
	OnLinkGreeting   func(s *Session)
	OnLinkIdentify   func(s *Session)
	OnLinkTLS        func(s *Session)
	OnLinkAuth       func(s *Session, result Result, user string)
	OnLinkDisconnect func(s *Session) // the last call for s
	OnTxBegin        func(s *Session)
	OnTxMail         func(s *Session, result Result, address string)
	OnTxRcpt         func(s *Session, result Result, address string)
	OnTxEnvelope     func(s *Session, id uint64)
	OnTxData         func(s *Session, result Result)
	OnTxCommit       func(s *Session, size int64) // bytes
	OnTxRollback     func(s *Session)
	OnTxReset        func(s *Session) // Tx is nil behind it
	OnProtocolClient func(s *Session, line string)
	OnProtocolServer func(s *Session, line string)
	OnFilterReport   func(s *Session, kind, name, text string) // kind is builtin or proc
	OnFilterResponse func(s *Session, phase, response, param string)
	OnTimeout        func(s *Session)

	// Out is the filter for outgoing sessions. It may decide in MailFrom, RcptTo,
	// DataLine or Message, and Commit, and its options are not used.
	Out *Filter

	// Start is called when the daemon has introduced itself, before it is told what to
	// ask. An error ends the filter.
	Start func(d *Daemon) error

	// MaxMessage bounds, in bytes, what Message is called with. A longer message is
	// refused with 552 at commit. Zero means 64 MiB.
	MaxMessage int64

	// MessageMemory is how many bytes of a message are kept in memory; what goes
	// beyond is written to a file without a name in TempDir. Zero means 256 KiB.
	MessageMemory int

	// TempDir is where such files are made; empty means os.TempDir.
	TempDir string

	// Log takes what the filter logs; nil means os.Stderr, which the daemon reads.
	Log io.Writer
}

// The defaults of the options.
const (
	defaultMaxMessage    = 64 << 20
	defaultMessageMemory = 256 << 10
)

// Daemon is what the daemon told of itself.
type Daemon struct {
	Version        string // of the daemon, such as "7.8.0"
	Protocol       string // such as "0.7"; "" before OpenSMTPD 7.6
	Admd           string // the name to use in Authentication-Results; "" when unknown
	SessionTimeout int    // seconds; 0 when unknown
	In, Out        bool   // whether the filter is attached to listeners and to relays

	// Config has all that was told, by key; of keys told several times, the last.
	Config map[string]string

	extensions map[wire.Extension]bool
}

// Has tells whether the daemon announced an extension of the protocol.
func (d *Daemon) Has(extension string) bool { return d.extensions[wire.Extension(extension)] }

// Main serves f on standard input and output until the daemon closes them or SIGINT
// or SIGTERM comes, and exits: with status 1 when something failed.
func Main(f *Filter) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := f.Serve(ctx, pipe(os.Stdin), pipe(os.Stdout))
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// pipe returns what reads and writes file. If that is a socket, as it is under daemons,
// the scheduler waits for it, which is cheaper than a thread that waits.
func pipe(file *os.File) io.ReadWriter {
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeSocket == 0 {
		return file
	}
	if conn, err := net.FileConn(file); err == nil {
		return conn
	}
	return file
}

// check finds what cannot work.
func (f *Filter) check() error {
	for _, f := range []*Filter{f, f.Out} {
		if f != nil && f.Message != nil && (f.DataLine != nil || f.DataEnd != nil) {
			return errors.New("filter: Message and DataLine are both set")
		}
	}
	if f.Out == nil {
		return nil
	}
	if f.Out.Out != nil {
		return errors.New("filter: Out.Out is set")
	}
	for p := wire.Phase(1); p < wire.Phases; p++ {
		if f.Out.decides(p) && !p.Outgoing() {
			return fmt.Errorf("filter: Out cannot decide at %v", p)
		}
	}
	return nil
}

// decides tells whether f must be asked in a phase.
func (f *Filter) decides(p wire.Phase) bool {
	switch p {
	case wire.PhaseConnect:
		return f.Connect != nil
	case wire.PhaseHelo:
		return f.Helo != nil
	case wire.PhaseEhlo:
		return f.Ehlo != nil
	case wire.PhaseStartTLS:
		return f.StartTLS != nil
	case wire.PhaseAuth:
		return f.Auth != nil
	case wire.PhaseMailFrom:
		return f.MailFrom != nil
	case wire.PhaseRcptTo:
		return f.RcptTo != nil
	case wire.PhaseData:
		return f.Data != nil
	case wire.PhaseDataLine:
		return f.DataLine != nil || f.DataEnd != nil || f.Message != nil
	case wire.PhaseCommit:
		return f.Commit != nil || f.Message != nil
	case wire.PhaseRset:
		return f.Rset != nil
	case wire.PhaseNoop:
		return f.Noop != nil
	case wire.PhaseQuit:
		return f.Quit != nil
	case wire.PhaseHelp:
		return f.Help != nil
	case wire.PhaseWiz:
		return f.Wiz != nil
	}
	return false
}

// wants tells whether an event must be reported to f: those that Session and
// Transaction are kept by always, others when there is a function for them.
func (f *Filter) wants(e wire.Event) bool {
	switch e {
	case wire.EventTxData:
		return f.OnTxData != nil
	case wire.EventTxCommit:
		return f.OnTxCommit != nil
	case wire.EventTxRollback:
		return f.OnTxRollback != nil
	case wire.EventProtocolClient:
		return f.OnProtocolClient != nil
	case wire.EventProtocolServer:
		return f.OnProtocolServer != nil
	case wire.EventFilterReport:
		return f.OnFilterReport != nil
	case wire.EventFilterResponse:
		return f.OnFilterResponse != nil
	case wire.EventTimeout:
		return f.OnTimeout != nil
	}
	return true
}

// used tells whether f has any function.
func (f *Filter) used() bool {
	for p := wire.Phase(1); p < wire.Phases; p++ {
		if f.decides(p) {
			return true
		}
	}
	for e := wire.EventTxData; e < wire.Events; e++ {
		if e != wire.EventTxRollback && f.wants(e) && e != wire.EventTxEnvelope {
			return true
		}
	}
	return f.OnLinkConnect != nil || f.OnLinkGreeting != nil || f.OnLinkIdentify != nil || f.OnLinkTLS != nil ||
		f.OnLinkAuth != nil || f.OnLinkDisconnect != nil || f.OnTxBegin != nil || f.OnTxMail != nil ||
		f.OnTxRcpt != nil || f.OnTxEnvelope != nil || f.OnTxRollback != nil || f.OnTxReset != nil
}
