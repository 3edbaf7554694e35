package server

import (
	"strings"
	"testing"
	"time"
)

// remoteHello is how dialogues of clients from elsewhere begin.
const remoteHello = `
S: 220 mx.test ESMTP OpenSMTPD
C: HELO c.test
S: 250 mx.test Hello c.test [192.0.2.1], pleased to meet you
`

// authSetup is a listener that wants AUTH and takes it in the clear.
func authSetup() *setup {
	u := newSetup()
	u.cfg.Local, u.cfg.Auth, u.cfg.AuthInClear = false, RequireAuth, true
	return u
}

func TestAuthReplies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script string }{
		{"PLAIN with initial response", `
C: AUTH PLAIN AGFubgBzZWNyZXQ=
S: 235 2.0.0 Authentication succeeded
C: AUTH PLAIN AGFubgBzZWNyZXQ=
S: 503 5.5.1 Invalid command: Already authenticated
C: MAIL FROM:<>
S: 250 2.0.0 Ok`},
		{"PLAIN without", `
C: auth plain
S: 334 
C: AGFubgBzZWNyZXQ=
S: 235 2.0.0 Authentication succeeded`},
		{"PLAIN, acting for oneself", `
C: AUTH PLAIN YW5uAGFubgBzZWNyZXQ=
S: 235 2.0.0 Authentication succeeded`},
		{"PLAIN, acting for another", `
C: AUTH PLAIN Ym9iAGFubgBzZWNyZXQ=
S: 535 5.7.8 Authentication failed`},
		{"LOGIN", `
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: YW5u
S: 334 UGFzc3dvcmQ6
C: c2VjcmV0
S: 235 2.0.0 Authentication succeeded`},
		{"LOGIN with initial response", `
C: AUTH LOGIN YW5u
S: 334 UGFzc3dvcmQ6
C: c2VjcmV0
S: 235 2.0.0 Authentication succeeded`},
		{"wrong password, and the reason stays private", `
C: AUTH PLAIN AGFubgB3cm9uZw==
S: 535 5.7.8 Authentication failed`},
		{"backend away", `
C: AUTH PLAIN AGJyb2tlbgBzZWNyZXQ=
S: 454 4.7.0 Temporary authentication failure
C: NOOP
S: 250 2.0.0 Ok`},
		{"cancelled", `
C: AUTH PLAIN
S: 334 
C: *
S: 501 5.7.0 Authentication cancelled
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: *
S: 501 5.7.0 Authentication cancelled`},
		{"syntax", `
C: AUTH
S: 501 5.5.4 Invalid command arguments: No parameters given
C: AUTH PLAIN !!!
S: 501 5.5.2 Syntax error: Syntax error
C: AUTH PLAIN YW5u
S: 501 5.5.2 Syntax error: Syntax error
C: AUTH PLAIN =
S: 501 5.5.2 Syntax error: Syntax error
C: AUTH PLAIN AGEKYgBzZWNyZXQ=
S: 501 5.5.2 Syntax error: Syntax error
C: AUTH CRAM-MD5
S: 504 5.7.4 Security features not supported: AUTH method "CRAM-MD5" not supported`},
		{"not without AUTH", `
C: MAIL FROM:<>
S: 530 5.5.1 Invalid command: Must issue an AUTH command first`},
		{"response beyond the bound", `
C: AUTH PLAIN
S: 334 
C: ` + strings.Repeat("A", maxAuth+1) + `
S: 500 5.0.0 Command line too long
S: EOF`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			authSetup().play(t, join(remoteHello, tt.script))
		})
	}
}

func TestAuthNeedsTLSUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	u := authSetup()
	u.cfg.AuthInClear = false
	u.play(t, join(remoteHello, `
C: AUTH PLAIN AGFubgBzZWNyZXQ=
S: 503 5.5.1 Invalid command: Command not supported`))
}

func TestAuthFailuresAreSlowedAndEnded(t *testing.T) {
	t.Parallel()
	u := authSetup()
	var asked []int
	u.cfg.MaxAuthFailures = 2
	u.cfg.AuthDelay = func(n int) time.Duration { asked = append(asked, n); return 0 }
	u.play(t, join(remoteHello, `
C: AUTH PLAIN AGFubgB3cm9uZw==
S: 535 5.7.8 Authentication failed
C: AUTH LOGIN YW5u
S: 334 UGFzc3dvcmQ6
C: d3Jvbmc=
S: 535 5.7.8 Authentication failed
S: 421 4.7.0 Too many authentication failures
S: EOF`))
	if len(asked) != 2 || asked[0] != 1 || asked[1] != 2 {
		t.Errorf("asked for pauses after %v failures, want 1 and 2", asked)
	}
	want := `Connected {Address:192.0.2.1 Host:<unknown>}
Authentication {User:ann Result:permfail}
FailedCommand {Command:AUTH PLAIN (...) Result:535 5.7.8 Authentication failed Rule: Cause:535 wrong password, really}
Authentication {User:ann Result:permfail}
FailedCommand {Command:AUTH LOGIN (password) Result:535 5.7.8 Authentication failed Rule: Cause:535 wrong password, really}
BadInput {Result:421 4.7.0 Too many authentication failures}
Disconnected {Reason:quit}
`
	if got := u.events.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
