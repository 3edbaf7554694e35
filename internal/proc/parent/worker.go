package parent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/platform"
)

// commandTimeout is how long a delivery command may take.
const commandTimeout = 300 * time.Second

// worker is a delivery or enqueue process and the link that configures it.
type worker struct {
	process Process
	conn    *imsg.Conn
	ended   chan struct{} // closed when the process has ended
}

// permanent is a refusal that no later attempt will change.
func permanent(format string, args ...any) error {
	return &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 3, 0}, Text: fmt.Sprintf(format, args...)}
}

// startWorker starts a delivery worker as the recipient and returns the socket to
// it. What the worker does follows from the parent's own configuration.
func (p *Parent) startWorker(ctx context.Context, req proto.WorkerRequest, files []*os.File) (proto.Empty, []*os.File, error) {
	closeFiles(files)
	c, _ := p.current()
	action := c.Actions[req.Action]
	if action == nil || !action.Local() {
		return proto.Empty{}, nil, fmt.Errorf("action %q: no such local action", req.Action)
	}
	u, err := p.recipient(ctx, action, req)
	if err != nil {
		return proto.Empty{}, nil, err
	}
	name := title(req.User)
	if req.Shared {
		if !action.SharesWorker() || req.Exec || req.User == "" {
			return proto.Empty{}, nil, fmt.Errorf("action %q: its workers are not shared", req.Action)
		}
		if int64(u.UID) != int64(req.UID) || int64(u.GID) != int64(req.GID) {
			return proto.Empty{}, nil, fmt.Errorf("user %q: ids are %d:%d, not %d:%d any more", req.User, u.UID, u.GID, req.UID, req.GID)
		}
		name = fmt.Sprintf("uid %d", u.UID)
	}
	// A command or a file that a user has named gets no right that only the system
	// mailbox needs: not root's, not the group of the directory of mailboxes.
	mailbox := action.Method == policy.Mbox && !req.Exec
	if u.UID == 0 && (!mailbox || action.Wrapper != "" || req.Userbase != "") {
		return proto.Empty{}, nil, permanent("MDA not allowed to deliver to: %s", title(req.User))
	}
	if mailbox {
		if err := p.prepareMailbox(&u); err != nil {
			return proto.Empty{}, nil, err
		}
	}
	w, theirs, err := p.spawnWorker(ctx, proto.Worker, "delivery "+name, u)
	if err != nil {
		return proto.Empty{}, nil, err
	}
	_, _, err = proto.SetupWorker.Call(ctx, w.conn, proto.WorkerConfig{
		User: req.User, Home: u.Home, Shared: req.Shared, Exec: req.Exec, Method: uint8(action.Method), Path: action.Path, Junk: action.Junk,
		Dest: action.Dest, RcptTo: action.RcptTo, Command: action.Command, Wrapper: action.Wrapper,
		HostName: c.ServerName, MailDir: p.Paths.Mail, Libexec: p.Paths.Libexec, Shell: p.Paths.Shell,
		DefPath: p.Paths.DefPath, Delimiter: c.Delimiter, Timeout: commandTimeout,
	})
	if err != nil {
		theirs.Close()
		w.conn.Close()
		w.process.Kill()
		return proto.Empty{}, nil, fmt.Errorf("worker of %s: %w", name, err)
	}
	return proto.Empty{}, []*os.File{theirs}, nil
}

// recipient decides whom a worker runs as. Users are looked up here, those of a
// userbase by lookup, so that the queue's word is not taken for their ids.
func (p *Parent) recipient(ctx context.Context, a *policy.Action, req proto.WorkerRequest) (platform.User, error) {
	if req.User == "" {
		return p.SMTPUser, nil
	}
	name := req.User
	if a.User != "" {
		name = a.User
	} else if req.Userbase != "" {
		if req.Userbase != a.Userbase {
			return platform.User{}, fmt.Errorf("userbase %q is not that of action %q", req.Userbase, a.Name)
		}
		return p.userbaseUser(ctx, req.User, req.Userbase)
	}
	u, err := p.Host.User(ctx, name)
	if errors.Is(err, platform.ErrNoUser) {
		if a.User != "" {
			return u, permanent("delivery user '%s' does not exist", name)
		}
		return u, permanent("Permanent failure in user lookup")
	}
	return u, err
}

// maxID is the largest user and group id. The kernel takes the next one for "leave
// as it is", and more bits than these it does not look at.
const maxID = 1<<32 - 2

// userbaseUser asks lookup about a user of a table.
func (p *Parent) userbaseUser(ctx context.Context, name, userbase string) (platform.User, error) {
	conn := p.up(proto.Lookup)
	if conn == nil {
		return platform.User{}, errors.New("lookup is being started")
	}
	r, _, err := proto.UserInfo.Call(ctx, conn, proto.UserInfoRequest{User: name, Userbase: userbase})
	if err != nil {
		return platform.User{}, fmt.Errorf("user %q of table %q: %w", name, userbase, err)
	}
	if !r.Found {
		return platform.User{}, permanent("Permanent failure in user lookup")
	}
	if r.UID < 0 || int64(r.UID) > maxID || r.GID < 0 || int64(r.GID) > maxID {
		return platform.User{}, fmt.Errorf("user %q of table %q: ids %d:%d are out of range", name, userbase, r.UID, r.GID)
	}
	return platform.User{Name: name, UID: r.UID, GID: r.GID, Groups: []int{r.GID}, Home: r.Home}, nil
}

// prepareMailbox makes a missing system mailbox, and lets the worker take part in
// the group that owns the spool directory when that group may write there, for
// lock files.
func (p *Parent) prepareMailbox(u *platform.User) error {
	if u.Name == "" || u.Name == "." || u.Name == ".." || strings.ContainsAny(u.Name, "/\x00") {
		return permanent("user %q cannot have a mailbox", u.Name)
	}
	if fi, err := os.Stat(p.Paths.Mail); err != nil {
		return err
	} else if st, ok := fi.Sys().(*syscall.Stat_t); ok && fi.Mode().Perm()&0o020 != 0 {
		u.Groups = append(append([]int{}, u.Groups...), int(st.Gid))
	}
	if os.Geteuid() != 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(p.Paths.Mail, u.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chown(u.UID, u.GID)
}

// spawnWorker starts a process as a user with a link to the parent (descriptor 3)
// and another one whose far end is returned (descriptor 4).
func (p *Parent) spawnWorker(ctx context.Context, role proto.Role, title string, u platform.User) (*worker, *os.File, error) {
	if p.OneProcess && u.UID != os.Geteuid() {
		return nil, nil, fmt.Errorf("cannot act as user %s: the daemon does not run as root", u.Name)
	}
	ours, theirs, err := imsg.SocketPair()
	if err != nil {
		return nil, nil, err
	}
	far, near, err := imsg.SocketPair()
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, nil, err
	}
	process, err := p.spawn(role, title, &Credential{UID: u.UID, GID: u.GID, Groups: u.Groups}, theirs, near)
	if err != nil {
		ours.Close()
		far.Close()
		return nil, nil, err
	}
	conn, err := imsg.FromFile(ours, imsg.NewMux(), imsg.Options{})
	if err != nil {
		process.Kill()
		p.wg.Go(func() { _ = process.Wait() }) // it was killed
		far.Close()
		return nil, nil, err
	}
	w := &worker{process, conn, make(chan struct{})}
	p.mu.Lock()
	p.workers[w] = struct{}{}
	p.mu.Unlock()
	p.wg.Go(func() { _ = conn.Serve(context.WithoutCancel(ctx)) })
	p.wg.Go(func() {
		if err := process.Wait(); err != nil {
			p.Log.Warnf("%s: %v", title, err)
		}
		conn.Close()
		p.mu.Lock()
		delete(p.workers, w)
		p.mu.Unlock()
		close(w.ended)
	})
	return w, far, nil
}

// title keeps a user name from upsetting the process list.
func title(s string) string {
	if s == "" {
		return "commands"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s[:min(len(s), 64)])
}
