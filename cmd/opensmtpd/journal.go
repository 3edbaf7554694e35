package main

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/maillog"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// journalSocket is where systemd's journal takes entries with fields.
const journalSocket = "/run/systemd/journal/socket"

const (
	// journalPatience is how long a line waits for a journal that takes none. Up to
	// then the buffers of the processes hold what is logged.
	journalPatience = 5 * time.Second
	// journalPause is how long lines are dropped after that, until one tries again.
	journalPause = time.Second
	// journalRetry is how long that one waits.
	journalRetry = 10 * time.Millisecond
)

// journal sends lines to systemd's journal, each as one datagram of fields (native
// journal protocol of systemd), for
//
//	journalctl SMTPD_SESSION=00000000deadbeef
//
// Beside the line, severity and facility there are SMTPD_ROLE and, as far as the line is
// about them, SMTPD_SESSION, SMTPD_MESSAGE and SMTPD_ENVELOPE.
//
// A journal that has stopped stops no mail: lines are dropped and counted then.
type journal struct {
	path     string
	patience time.Duration
	pause    time.Duration

	mu    sync.Mutex // guards what follows
	conn  *net.UnixConn
	entry []byte    // the buffer of the last entry
	again time.Time // lines are dropped until then
	lost  int       // since the last that was taken
}

// openJournal connects to the journal's socket.
func openJournal(path string) (*journal, error) {
	j := &journal{path: path, patience: journalPatience, pause: journalPause}
	if err := j.dial(); err != nil {
		return nil, err
	}
	return j, nil
}

// dial makes a new connection. j.mu is held, or j is not shared yet.
func (j *journal) dial() error {
	if j.conn != nil {
		_ = j.conn.Close() // nothing is left in it
		j.conn = nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.path, Net: "unixgram"})
	if err == nil {
		j.conn = conn
	}
	return err
}

// line sends one line of a role, or drops it.
func (j *journal) line(role proto.Role, level proc.Level, text []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	if now.Before(j.again) {
		j.lost++
		return
	}
	patience := j.patience
	if j.lost > 0 {
		patience = min(patience, journalRetry)
	}
	j.entry = appendEntry(j.entry[:0], role, level, text)
	if err := j.send(now.Add(patience)); err != nil {
		j.again = time.Now().Add(j.pause)
		j.lost++
		return
	}
	if j.lost > 0 {
		lost := "warn: " + strconv.Itoa(j.lost) + " lines are missing here: the journal took none"
		j.entry = appendEntry(j.entry[:0], proto.Parent, proc.Warn, []byte(lost))
		if j.send(now.Add(patience)) == nil {
			j.lost = 0
		}
	}
}

// send writes the entry by the deadline. A journal that was started anew may have
// another socket. j.mu is held.
func (j *journal) send(deadline time.Time) error {
	err := error(net.ErrClosed)
	if j.conn != nil {
		err = j.write(deadline)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		if err = j.dial(); err == nil {
			err = j.write(deadline)
		}
	}
	return err
}

func (j *journal) write(deadline time.Time) error {
	if err := j.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := j.conn.Write(j.entry)
	return err
}

// appendEntry appends an entry: a field a line. The text is one line.
func appendEntry(b []byte, role proto.Role, level proc.Level, text []byte) []byte {
	field := func(name, value string) {
		if value != "" {
			b = append(append(append(append(b, name...), '='), value...), '\n')
		}
	}
	b = append(append(append(b, "MESSAGE="...), text...), '\n')
	b = append(b, "PRIORITY="...)
	b = append(b, '0'+byte(level), '\n')
	b = append(b, "SYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=smtpd\n"...) // mail
	field("SMTPD_ROLE", string(role))
	ids := maillog.LineIDs(text)
	field("SMTPD_SESSION", ids.Session)
	field("SMTPD_MESSAGE", ids.Message)
	field("SMTPD_ENVELOPE", ids.Envelope)
	return b
}
