package server

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// maxName bounds user name and password, in bytes.
const maxName = 255

// errOtherIdentity is the cause in the log when a client names an authorization
// identity that is not its user name.
var errOtherIdentity = errors.New("asks to act for another identity")

// auth answers AUTH with PLAIN (RFC 4616) and LOGIN (RFC 4954).
func (s *session) auth(ctx context.Context, arg string) {
	mechanism, _, _ := strings.Cut(arg, " ")
	s.cmd = append(s.cmd[:0], "AUTH "+strings.ToUpper(mechanism)+" (...)"...)
	switch {
	case s.HELO == "" || s.tx != nil:
		s.notNow()
	case s.Username != "":
		s.invalid(503, "Already authenticated")
	case !s.offersAuth():
		s.invalid(503, "Command not supported")
	case arg == "":
		s.badArgument("No parameters given")
	default:
		if arg, ok := s.decide(ctx, wire.PhaseAuth, arg, arg); ok {
			s.authBy(ctx, arg)
		}
	}
}

// authBy runs the mechanism that the argument of AUTH names.
func (s *session) authBy(ctx context.Context, arg string) {
	mechanism, initial, hasInitial := strings.Cut(arg, " ")
	mechanism, initial = strings.ToUpper(mechanism), strings.TrimLeft(initial, " ")
	switch mechanism {
	case "PLAIN":
		s.authPlain(ctx, initial, hasInitial)
	case "LOGIN":
		s.authLogin(ctx, initial, hasInitial)
	default:
		s.cmd = append(s.cmd[:0], "AUTH "+mechanism...)
		if len(mechanism) > 64 {
			mechanism = strings.ToValidUTF8(mechanism[:64], "")
		}
		s.refuse(504, smtp.EnhancedCode{5, 7, 4}, `Security features not supported: AUTH method "`+mechanism+`" not supported`)
	}
}

// authPlain takes authorization identity NUL user NUL password.
func (s *session) authPlain(ctx context.Context, initial string, hasInitial bool) {
	if !hasInitial {
		s.say(334, smtp.EnhancedCode{}, "")
	}
	response, ok := s.authResponse(initial, hasInitial)
	if !ok {
		return
	}
	f := strings.Split(response, "\x00")
	if len(f) != 3 {
		s.authSyntax()
		return
	}
	s.authenticate(ctx, f[0], f[1], f[2])
}

// authLogin asks for user name and password, one after the other.
func (s *session) authLogin(ctx context.Context, initial string, hasInitial bool) {
	s.cmd = append(s.cmd[:0], "AUTH LOGIN (username)"...)
	if !hasInitial {
		s.say(334, smtp.EnhancedCode{}, "VXNlcm5hbWU6") // Username:
	}
	user, ok := s.authResponse(initial, hasInitial)
	if !ok {
		return
	}
	s.cmd = append(s.cmd[:0], "AUTH LOGIN (password)"...)
	s.say(334, smtp.EnhancedCode{}, "UGFzc3dvcmQ6") // Password:
	password, ok := s.authResponse("", false)
	if !ok {
		return
	}
	s.authenticate(ctx, "", user, password)
}

// authResponse decodes a response, the initial one or one that it reads. When ok
// is false the command has been answered or the session has ended.
func (s *session) authResponse(initial string, hasInitial bool) (response string, ok bool) {
	if !hasInitial {
		line, _, err := s.wire.line(maxAuth)
		if err != nil {
			s.readError(err)
			return "", false
		}
		initial = string(line)
		s.tellLine(hidden)
	}
	switch initial {
	case "*":
		s.refuse(501, smtp.EnhancedCode{5, 7, 0}, "Authentication cancelled")
		return "", false
	case "=": // an empty initial response
		initial = ""
	}
	b, err := base64.StdEncoding.Strict().DecodeString(initial)
	if err != nil {
		s.authSyntax()
		return "", false
	}
	return string(b), true
}

// authSyntax refuses a malformed response.
func (s *session) authSyntax() {
	s.refuse(501, smtp.EnhancedCode{5, 5, 2}, "Syntax error: Syntax error")
}

// authenticate asks the backend. Acting for another identity than one's own is
// refused.
func (s *session) authenticate(ctx context.Context, identity, user, password string) {
	if user == "" || len(user) > maxName || len(password) > maxName || !smtp.ValidLine([]byte(user)) ||
		strings.ContainsAny(password, "\r\n\x00") {
		s.authSyntax()
		return
	}
	if identity != "" && identity != user {
		s.authFailed(ctx, user, errOtherIdentity)
		return
	}
	err := s.backend.Authenticate(ctx, user, password)
	var refusal *smtp.Error
	switch {
	case err == nil:
		s.authenticated(user, "ok")
		s.Authenticated, s.Username, s.authFailures = true, user, 0
		s.say(235, smtp.EnhancedCode{2, 0, 0}, "Authentication succeeded")
	case errors.As(err, &refusal) && refusal.Permanent():
		if refusal.Err != nil {
			err = refusal.Err // the reply is said already
		}
		s.authFailed(ctx, user, err)
	default:
		s.authenticated(user, "tempfail")
		s.refuseWith(&smtp.Error{Code: 454, Enhanced: smtp.EnhancedCode{4, 7, 0}, Text: "Temporary authentication failure", Err: err})
	}
}

// authFailed refuses credentials, and ends the session that tries too many.
func (s *session) authFailed(ctx context.Context, user string, cause error) {
	s.authenticated(user, "permfail")
	s.authFailures++
	if s.cfg.AuthDelay != nil {
		pause := time.NewTimer(s.cfg.AuthDelay(s.authFailures))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	s.refuseWith(&smtp.Error{Code: 535, Enhanced: smtp.EnhancedCode{5, 7, 8}, Text: "Authentication failed", Err: cause})
	if s.authFailures >= s.cfg.MaxAuthFailures && s.end == "" {
		s.bye(421, smtp.EnhancedCode{4, 7, 0}, "Too many authentication failures")
		s.badInput("421 4.7.0 Too many authentication failures")
	}
}

// authenticated reports how an exchange ended.
func (s *session) authenticated(user, result string) {
	s.cfg.Events.Report(report.Authentication{Session: s.ID, User: user, Result: result})
	words := map[string]wire.Result{"ok": wire.Pass, "permfail": wire.Fail, "tempfail": wire.Error}
	s.tell(wire.LinkAuth{Result: words[result], User: user})
}
