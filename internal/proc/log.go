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
type Log struct {
	mu     sync.Mutex
	w      io.Writer
	buf    []byte
	prefix bool // write the severity
	json   bool
	role   proto.Role

	debug atomic.Bool
	trace atomic.Pointer[[]string]
}

// NewLog returns a log on w. prefixed lines carry their severity; asJSON makes
// each line an object.
func NewLog(w io.Writer, role proto.Role, prefixed, asJSON bool) *Log {
	return &Log{w: w, prefix: prefixed, json: asJSON, role: role}
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

func (l *Log) write(level Level, line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = l.buf[:0]
	if l.prefix {
		l.buf = append(l.buf, '<', '0'+byte(level), '>')
	}
	for _, c := range line {
		// One line stays one line, and a terminal is told nothing.
		switch {
		case c == '\n' || c == '\r' || c == '\t':
			c = ' '
		case c < ' ' || c == 0x7f:
			c = '?'
		}
		l.buf = append(l.buf, c)
	}
	l.buf = append(l.buf, '\n')
	// A log that cannot be written must not stop mail.
	_, _ = l.w.Write(l.buf)
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
func (l *Log) Critf(format string, args ...any) { l.printf(Crit, "", format, args...) }

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
