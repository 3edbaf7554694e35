package lookup

import (
	"context"
	"errors"
	"fmt"

	"github.com/opensmtpd/opensmtpd/internal/auth"
	"github.com/opensmtpd/opensmtpd/internal/expand"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// authenticate checks a password, against a table or the system's users.
func (l *Lookup) authenticate(ctx context.Context, req proto.AuthRequest) (proto.Empty, error) {
	err := l.limiter.Do(ctx, req.Source, func(ctx context.Context) error {
		if req.Table == "" {
			return l.systemAuth(ctx, req)
		}
		g, done := l.use(req.Generation)
		defer done()
		t := g.tables[req.Table]
		if t == nil {
			return noSuchTable(req.Table)
		}
		return l.Checker.Check(ctx, t, req.User, req.Password)
	})
	return proto.Empty{}, proto.Refuse(err)
}

// systemAuth has the parent check the password of a user of the system.
func (l *Lookup) systemAuth(ctx context.Context, req proto.AuthRequest) error {
	_, err := proc.Ask(ctx, l.p.Links, proto.Parent, proto.SystemAuth, proto.SystemAuthRequest{User: req.User, Password: req.Password})
	if e := proto.SMTPError(err); e != nil && e.Permanent() {
		e.Err = fmt.Errorf("%w: %w", auth.ErrDenied, e.Err)
		return e
	}
	return err
}

// checkSender tells whether an authenticated user may use a sender address.
func (l *Lookup) checkSender(ctx context.Context, req proto.CheckSenderRequest) (proto.Empty, error) {
	g, done := l.use(req.Generation)
	defer done()
	t := g.tables[req.Table]
	if t == nil {
		return proto.Empty{}, proto.Refuse(noSuchTable(req.Table))
	}
	ok, err := auth.MaySend(ctx, t, req.User, req.Sender, g.expander.Delim)
	if err != nil {
		return proto.Empty{}, err
	}
	if !ok {
		return proto.Empty{}, proto.Refuse(&smtp.Error{Code: 530, Enhanced: smtp.EnhancedCode{5, 7, 1}, Text: "Sender rejected",
			Err: fmt.Errorf("user %q may not send as <%s>", req.User, req.Sender)})
	}
	return proto.Empty{}, nil
}

// userInfo looks up whom a delivery is for.
func (l *Lookup) userInfo(ctx context.Context, req proto.UserInfoRequest) (proto.UserInfoReply, error) {
	t := l.Users
	if req.Userbase != "" {
		g, done := l.use(0)
		defer done()
		if t = g.tables[req.Userbase]; t == nil {
			return proto.UserInfoReply{}, noSuchTable(req.Userbase)
		}
	}
	value, err := t.Lookup(ctx, table.UserInfo, req.User)
	if errors.Is(err, table.ErrNotFound) {
		return proto.UserInfoReply{}, nil
	}
	if err != nil {
		return proto.UserInfoReply{}, err
	}
	uid, gid, home, err := expand.ParseUserInfo(value)
	if err != nil {
		return proto.UserInfoReply{}, fmt.Errorf("user %q: %w", req.User, err)
	}
	return proto.UserInfoReply{Found: true, UID: uid, GID: gid, Home: home}, nil
}
