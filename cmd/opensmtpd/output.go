package main

import (
	"bytes"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"sync"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// maxLogLine bounds a line of a role's log, in bytes; what is longer is cut.
const maxLogLine = 8192

// output is where log lines end up: systemd's journal, syslog, or standard error.
type output struct {
	mu      sync.Mutex // makes lines whole
	stderr  io.Writer
	syslog  *syslog.Writer // nil: stderr
	journal *journal       // nil: the others

	// severity says that standard error is read by systemd's journal, which takes the
	// severity in front of a line for what it is (sd-daemon(3)).
	severity bool
}

// newOutput opens the journal where standard error is read by it, otherwise syslog,
// unless lines go to standard error. Without a syslog daemon they go there too: better
// in the wrong place than nowhere.
func newOutput(toStderr bool) *output {
	o := &output{stderr: os.Stderr, severity: isJournal(os.Stderr, os.Getenv("JOURNAL_STREAM"))}
	if o.severity {
		if j, err := openJournal(journalSocket); err == nil {
			o.journal = j
			return o
		}
	}
	if toStderr {
		return o
	}
	w, err := syslog.New(syslog.LOG_MAIL|syslog.LOG_INFO, "smtpd")
	if err != nil {
		return o
	}
	o.syslog = w
	return o
}

// isJournal tells whether f is the stream that JOURNAL_STREAM of systemd.exec(5)
// names, by device and inode.
func isJournal(f *os.File, stream string) bool {
	fi, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// line writes one finished line to syslog. A log that fails must not stop mail.
func (o *output) line(level proc.Level, text []byte) {
	switch level {
	case proc.Crit:
		_ = o.syslog.Crit(string(text))
	case proc.Warn:
		_ = o.syslog.Warning(string(text))
	case proc.Debug:
		_ = o.syslog.Debug(string(text))
	default:
		_ = o.syslog.Info(string(text))
	}
}

// pipe returns a writer for the log of one process of the role: lines that start with
// "<N>", N the severity; lines without, such as a crash of the runtime, are critical.
func (o *output) pipe(role proto.Role) io.Writer { return &linePipe{o: o, role: role} }

// linePipe cuts what is written into lines.
type linePipe struct {
	o    *output
	role proto.Role
	rest []byte
	skip bool   // the rest of an overlong line is dropped
	text []byte // finished lines for standard error, written together
}

// Write implements io.Writer. One goroutine writes.
func (p *linePipe) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if !p.skip {
			p.rest = append(p.rest, part[:min(len(part), maxLogLine-len(p.rest))]...)
			p.skip = len(p.rest) == maxLogLine
		}
		if i >= 0 {
			p.flush()
		}
	}
	if len(p.text) > 0 {
		p.o.mu.Lock()
		_, _ = p.o.stderr.Write(p.text) // a log that fails must not stop mail
		p.o.mu.Unlock()
		p.text = p.text[:0]
	}
	return n, nil
}

func (p *linePipe) flush() {
	level, text := proc.Crit, p.rest
	if len(text) >= 3 && text[0] == '<' && text[2] == '>' && text[1] >= '0' && text[1] <= '7' {
		level, text = proc.Level(text[1]-'0'), text[3:]
	}
	switch {
	case len(text) == 0:
	case p.o.journal != nil:
		p.o.journal.line(p.role, level, text)
	case p.o.severity && p.o.syslog == nil:
		p.text = append(append(append(p.text, '<', '0'+byte(level), '>'), text...), '\n')
	case p.o.syslog == nil:
		p.text = append(append(p.text, text...), '\n')
	default:
		p.o.line(level, text)
	}
	p.rest, p.skip = p.rest[:0], false
}
