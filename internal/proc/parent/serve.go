package parent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/platform"
)

// mux returns what a role may ask of the parent: little.
func (p *Parent) mux(role proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	switch role {
	case proto.Lookup:
		proto.ReadForward.Handle(mux, proc.Handler(p.readForward))
		proto.OpenTable.Handle(mux, p.openTable)
		proto.StartTable.Handle(mux, p.startTable)
		proto.EndTable.Handle(mux, proc.Handler(p.endTable))
		proto.SystemAuth.Handle(mux, proc.Handler(p.systemAuth))
		proto.SystemUser.Handle(mux, proc.Handler(p.systemUser))
	case proto.Queue:
		proto.StartWorker.Handle(mux, p.startWorker)
	case proto.Dispatcher:
		proto.StartFilter.Handle(mux, p.startFilter)
		proto.StopFilter.Handle(mux, proc.Handler(p.stopFilter))
	case proto.Control:
		proto.Reload.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.Empty) (proto.ReloadReply, error) {
			if err := p.Reload(ctx); err != nil {
				return proto.ReloadReply{Errors: strings.Split(err.Error(), "\n")}, nil
			}
			return proto.ReloadReply{}, nil
		}))
		proto.Stop.Handle(mux, proc.Handler(func(context.Context, proto.Empty) (proto.Empty, error) {
			p.Stop()
			return proto.Empty{}, nil
		}))
		proto.Status.Handle(mux, proc.Handler(p.status))
		proto.SetVerbose.Handle(mux, proc.Handler(p.setVerbose))
	}
	return mux
}

func (p *Parent) readForward(_ context.Context, req proto.ForwardRequest) (proto.ForwardReply, error) {
	content, found, err := p.Forward(req.Home, req.UID)
	return proto.ForwardReply{Found: found, Content: content}, err
}

// openTable opens the file of a table that the configuration names.
func (p *Parent) openTable(_ context.Context, req proto.OpenTableRequest, files []*os.File) (proto.Empty, []*os.File, error) {
	closeFiles(files)
	c, _ := p.current()
	path, ok := c.TableFiles[req.Name]
	if !ok {
		return proto.Empty{}, nil, fmt.Errorf("table %q has no file", req.Name)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return proto.Empty{}, nil, err
	}
	return proto.Empty{}, []*os.File{f}, nil
}

func (p *Parent) systemAuth(ctx context.Context, req proto.SystemAuthRequest) (proto.Empty, error) {
	a, ok := p.Host.(platform.Authenticator)
	if !ok {
		return proto.Empty{}, fmt.Errorf("%s offers no authentication of system users; use auth <table>", p.Host.Name())
	}
	err := a.Authenticate(ctx, req.User, req.Password)
	if errors.Is(err, platform.ErrBadPassword) || errors.Is(err, platform.ErrNoUser) {
		return proto.Empty{}, &smtp.Error{Code: 535, Enhanced: smtp.EnhancedCode{5, 7, 8}, Text: "Authentication failed", Err: err}
	}
	return proto.Empty{}, err
}

// systemUser looks a user up for lookup, which must not start the programs that ask
// a directory.
func (p *Parent) systemUser(ctx context.Context, req proto.SystemUserRequest) (proto.SystemUserReply, error) {
	u, err := p.Host.User(ctx, req.Name)
	if errors.Is(err, platform.ErrNoUser) {
		return proto.SystemUserReply{}, nil
	}
	if err != nil {
		return proto.SystemUserReply{}, err
	}
	return proto.SystemUserReply{
		Found: true, Name: u.Name, UID: u.UID, GID: u.GID, Groups: u.Groups, Home: u.Home, Shell: u.Shell, Gecos: u.Gecos,
	}, nil
}

func (p *Parent) status(context.Context, proto.Empty) (proto.StatusReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := proto.StatusReply{ServerName: p.config.ServerName, Generation: p.generation, OneProcess: p.OneProcess, Verbose: p.verbose}
	r.Roles = append(r.Roles, proto.RoleStatus{Role: proto.Parent, PID: os.Getpid(), Guarantees: fmt.Sprintf("uid=%d", os.Geteuid())})
	for _, role := range order {
		m := p.members[role]
		if m == nil {
			continue
		}
		s := proto.RoleStatus{Role: role, Restarts: m.restarts, Guarantees: m.reply.Guarantees, Missing: m.reply.Missing}
		if m.process != nil {
			s.PID = m.process.PID()
		}
		r.Roles = append(r.Roles, s)
	}
	return r, nil
}

// setVerbose changes the level of logging everywhere; roles that start later get
// it with their configuration.
func (p *Parent) setVerbose(ctx context.Context, req proto.VerboseRequest) (proto.Empty, error) {
	p.mu.Lock()
	p.verbose = req
	p.mu.Unlock()
	p.Log.SetVerbose(req)
	for _, role := range order {
		if conn := p.up(role); conn != nil {
			if _, _, err := proto.Verbose.Call(ctx, conn, req); err != nil {
				return proto.Empty{}, err
			}
		}
	}
	return proto.Empty{}, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
