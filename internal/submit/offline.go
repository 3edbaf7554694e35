package submit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// An offline file is what sendmail leaves in the directory "offline" of the spool
// while there is no daemon. Its name is the time in Unix seconds, a dot and ten
// random characters; while it is being written, a dot stands in front of that. Its
// first line holds the arguments of sendmail parted by "|", then comes the message:
//
//	-f|alice|-F|Alice Adams|--|bob@example.org
//	Subject: hello
//
//	...
//
// The directory lets everybody create files and nobody list or take others' (mode
// 1733), so that sendmail needs no rights of its own.
const (
	maxArgs = 1 << 20 // bytes of the first line

	// namePrefix marks a file that is not complete.
	namePrefix = "."
)

// Spool keeps s, which r resolved to, in dir until a daemon takes it. When it
// returns nil the message is on disk.
func (s *Submission) Spool(dir string, r Request) error {
	args, err := s.spoolArgs(r)
	if err != nil {
		return err
	}
	line := strings.Join(args, "|")
	if len(line) >= maxArgs {
		return fmt.Errorf("arguments are too long to be kept while smtpd is down")
	}
	name := strconv.FormatInt(time.Now().Unix(), 10) + "." + rand.Text()[:10]
	path := filepath.Join(dir, namePrefix+name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = writeSpool(f, line, s.Message)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(path)
		return err
	}
	return syncDir(dir)
}

func writeSpool(f *os.File, line string, m *Message) error {
	w := bufio.NewWriterSize(f, readSize)
	if _, err := w.WriteString(line + "\n"); err != nil {
		return err
	}
	if _, err := io.Copy(w, m.Raw()); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes names in dir durable. Only those who may list a directory can: for
// others the file system's own schedule has to do, which the sync of the file hastens.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// InjectOffline submits the offline file f, which belongs to the user that runs this
// process, over a connection from dial, which speaks SMTP and is still to greet.
//
// When it returns nil the file has served its purpose: the message is accepted, or
// what was refused has gone back to its sender. When the error wraps a permanent
// *smtp.Error, neither was possible and another attempt is pointless. All other
// errors are temporary. Nothing is written to disk.
func InjectOffline(ctx context.Context, f *os.File, dial func(ctx context.Context) (net.Conn, error)) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	s, err := openOffline(f, fi.Size(), fi.ModTime())
	if err != nil {
		return err
	}
	err = inject(ctx, s, dial)
	var refusal *RefusedError
	if !errors.As(err, &refusal) || !refusal.permanent() || s.Sender.IsNull() {
		return err
	}
	nerr := inject(ctx, s.notice(refusal), dial)
	if nerr == nil {
		return nil
	}
	var final *RefusedError
	if refusal.Accepted || errors.As(nerr, &final) && final.permanent() {
		return err // another attempt would be a second copy, or in vain
	}
	return fmt.Errorf("%v: return to sender: %v", err, nerr)
}

// submitter is a Submission or a notice.
type submitter interface {
	transact(d *dialogue, some bool) error
}

// inject makes one transaction over a connection of its own.
func inject(ctx context.Context, s submitter, dial func(ctx context.Context) (net.Conn, error)) error {
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer watch(ctx, conn)()
	d, err := open(conn, nil)
	if err != nil {
		return temporary(err)
	}
	err = s.transact(d, true)
	d.quit()
	return err
}

// temporary takes a refusal out of err: one that is not about this message.
func temporary(err error) error {
	if _, ok := errors.AsType[*smtp.Error](err); ok {
		return errors.New(err.Error())
	}
	return err
}

// permanent tells whether no refusal is temporary.
func (e *RefusedError) permanent() bool {
	for _, r := range e.Refusals {
		if !r.Err.Permanent() {
			return false
		}
	}
	return true
}

// openOffline reads the first line of f, an offline file of size bytes, and looks
// through the message.
func openOffline(f io.ReaderAt, size int64, written time.Time) (*Submission, error) {
	line, err := firstLine(f)
	if err != nil {
		return nil, err
	}
	r, err := parseSpoolLine(string(line), written)
	if err != nil {
		return nil, bad(err)
	}
	if r.Sender == "" { // written by another version
		u, err := user.LookupId(strconv.Itoa(os.Getuid()))
		if err != nil {
			return nil, err
		}
		r.User = u.Username
		if r.FullName == "" {
			r.FullName, _, _ = strings.Cut(u.Name, ",")
		}
	}
	start := int64(len(line)) + 1
	size = max(0, size-start)
	m, err := Scan(io.NewSectionReader(f, start, size), size)
	if errors.Is(err, ErrHeaderTooLarge) {
		return nil, bad(err)
	}
	if err != nil {
		return nil, err
	}
	s, err := r.Resolve(m)
	if err != nil {
		return nil, bad(err)
	}
	return s, nil
}

// firstLine returns the first line of f without its end.
func firstLine(f io.ReaderAt) ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for len(buf) < maxArgs {
		n, err := f.ReadAt(buf[len(buf):cap(buf)], int64(len(buf)))
		buf = buf[:len(buf)+n]
		if i := bytes.IndexByte(buf, '\n'); i >= 0 {
			return buf[:i], nil
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		buf = append(buf, 0)[:len(buf)]
	}
	return nil, bad(errors.New("offline file without a line of arguments"))
}

// bad makes an error of what no further attempt can mend.
func bad(err error) error {
	return &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 6, 0}, Text: "Malformed offline message", Err: err}
}
