package proc

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/maillog"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// Level is a syslog severity.
type Level uint8

// The severities in use.
const (
	Crit  Level = 2
	Warn  Level = 4
	Info  Level = 6
	Debug Level = 7
)

// Log writes one line per event. In a process of its own each line starts with
// "<N>", N the severity, and goes to descriptor 2, a pipe that the parent reads;
// the parent hands it to syslog or standard error.
//
// Lines are written by a goroutine that runs while there are any: one write takes
// all that have come together within gather, or longer when the write before took
// longer. Up to maxPending bytes wait for it, beyond that their writers do. What is
// critical is written before Critf returns.
type Log struct {
	w      io.Writer
	prefix bool // write the severity
	json   bool
	role   proto.Role

	mu      sync.Mutex    // guards what follows
	room    sync.Cond     // some lines were written
	pending []byte        // lines to be written
	spare   []byte        // the buffer that was written last
	writing bool          // the goroutine runs
	hurry   chan struct{} // closed when what is pending may wait no longer

	debug atomic.Bool
	trace atomic.Pointer[[]string]
}

// NewLog returns a log on w. prefixed lines carry their severity; asJSON makes
// each line an object.
func NewLog(w io.Writer, role proto.Role, prefixed, asJSON bool) *Log {
	l := &Log{w: w, prefix: prefixed, json: asJSON, role: role}
	l.room.L = &l.mu
	return l
}

// Format is the form of lines, for those who make them.
func (l *Log) Format() maillog.Format {
	if l.json {
		return maillog.JSON
	}
	return maillog.Text
}

// SetVerbose sets the level of detail.
func (l *Log) SetVerbose(v proto.VerboseRequest) {
	l.debug.Store(v.Debug)
	l.trace.Store(&v.Trace)
}

// Tracing tells whether a subsystem's trace was asked for.
func (l *Log) Tracing(subsystem string) bool {
	t := l.trace.Load()
	return t != nil && (slices.Contains(*t, subsystem) || slices.Contains(*t, "all"))
}

// WriteLine writes one finished line, of maillog's making, at level info.
func (l *Log) WriteLine(line []byte) { l.write(Info, line) }

const (
	// maxPending bounds the lines that wait to be written, in bytes.
	maxPending = 1 << 20
	// gather is how long a line may wait for others. Each write wakes the process
	// that reads it, which under load costs more than the line.
	gather = 5 * time.Millisecond
)

func (l *Log) write(level Level, line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > maxPending {
		l.rush()
		l.room.Wait()
	}
	if l.prefix {
		l.pending = append(l.pending, '<', '0'+byte(level), '>')
	}
	start := len(l.pending)
	l.pending = append(l.pending, line...)
	for i, c := range l.pending[start:] {
		// One line stays one line, and a terminal is told nothing.
		switch {
		case c == '\n' || c == '\r' || c == '\t':
			l.pending[start+i] = ' '
		case c < ' ' || c == 0x7f:
			l.pending[start+i] = '?'
		}
	}
	l.pending = append(l.pending, '\n')
	if !l.writing {
		l.writing, l.hurry = true, make(chan struct{})
		go l.drain()
	}
}

// drain writes until nothing is pending.
func (l *Log) drain() {
	timer := time.NewTimer(gather)
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > 0 {
		hurry := l.hurry
		l.mu.Unlock()
		select {
		case <-timer.C:
		case <-hurry:
		}
		l.mu.Lock()
		lines := l.pending
		l.pending, l.hurry = l.spare[:0], make(chan struct{})
		l.mu.Unlock()
		// A log that cannot be written must not stop mail.
		_, _ = l.w.Write(lines)
		timer.Reset(gather)
		l.mu.Lock()
		l.spare = lines
		l.room.Broadcast()
	}
	l.writing = false
	l.room.Broadcast()
}

// Flush returns when all lines are written.
func (l *Log) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.writing {
		l.rush()
		l.room.Wait()
	}
}

// rush ends the wait for more lines. l.mu is held.
func (l *Log) rush() {
	select {
	case <-l.hurry:
	default:
		close(l.hurry)
	}
}

func (l *Log) printf(level Level, word, format string, args ...any) {
	text := word + fmt.Sprintf(format, args...)
	if l.json {
		line, err := json.Marshal(struct {
			Time    string `json:"time"`
			Level   string `json:"level"`
			Process string `json:"process"`
			Message string `json:"message"`
		}{time.Now().UTC().Format(time.RFC3339Nano), level.String(), string(l.role), text})
		if err == nil {
			l.write(level, line)
		}
		return
	}
	l.write(level, []byte(text))
}

// String returns the severity's word.
func (v Level) String() string {
	switch v {
	case Crit:
		return "crit"
	case Warn:
		return "warn"
	case Debug:
		return "debug"
	}
	return "info"
}

// Infof logs a normal event.
func (l *Log) Infof(format string, args ...any) { l.printf(Info, "info: ", format, args...) }

// Warnf logs what an operator should look at.
func (l *Log) Warnf(format string, args ...any) { l.printf(Warn, "warn: ", format, args...) }

// Critf logs what stops a part of the service.
func (l *Log) Critf(format string, args ...any) {
	l.printf(Crit, "", format, args...)
	l.Flush()
}

// Debugf logs detail, when asked for.
func (l *Log) Debugf(format string, args ...any) {
	if l.debug.Load() {
		l.printf(Debug, "debug: ", format, args...)
	}
}

// Tracef logs detail of one subsystem, when asked for by -T or smtpctl trace.
func (l *Log) Tracef(subsystem, format string, args ...any) {
	if l.Tracing(subsystem) {
		l.printf(Debug, subsystem+": ", format, args...)
	}
}
