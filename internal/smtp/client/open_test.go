package client

import (
	"crypto/tls"
	"errors"
	"slices"
	"testing"
)

func TestOpenFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		cfg    Config
		script string
		want   string
		stage  Stage
	}{
		{"a greeting that refuses all", Config{}, "S: 554 5.7.1 no mail\n",
			"BANNER rejected: 554 5.7.1 no mail", Banner},
		{"a greeting that puts off", Config{}, "S: 421 busy\n", "BANNER rejected: 421 busy", Banner},
		{"hung up before the greeting", Config{}, "close", "Connection closed unexpectedly", Banner},
		{"EHLO put off is no reason for HELO", Config{}, "S: 220 mx.test\nC: EHLO me.test\nS: 450 later\n",
			"EHLO rejected: 450 later", Hello},
		{"HELO refused too", Config{}, "S: 220 mx.test\nC: EHLO me.test\nS: 502 what?\nC: HELO me.test\nS: 550 go away\n",
			"HELO rejected: 550 go away", Hello},
		{"no HELO where TLS is needed", Config{TLSMode: RequireTLS}, "S: 220 mx.test\nC: EHLO me.test\nS: 502 what?\n",
			"EHLO rejected: 502 what?", Hello},
		{"no HELO where AUTH is needed", Config{Credentials: &Credentials{}}, "S: 220 mx.test\nC: EHLO me.test\nS: 502 what?\n",
			"EHLO rejected: 502 what?", Hello},
		{"LHLO refused", Config{LMTP: true}, "S: 220 mx.test\nC: LHLO me.test\nS: 500 what?\n",
			"LHLO rejected: 500 what?", Hello},
		{"TLS required and not offered", Config{TLSMode: RequireTLS}, greeted("SIZE"),
			"TLS required but not supported by remote host", StartTLS},
		{"TLS required and refused", Config{TLSMode: RequireTLS}, greeted("STARTTLS") + "C: STARTTLS\nS: 454 4.7.0 no\n",
			"STARTTLS rejected: 454 4.7.0 no", StartTLS},
		{"the end announced at STARTTLS", Config{TLSMode: OpportunisticTLS}, greeted("STARTTLS") + "C: STARTTLS\nS: 421 bye\n",
			"STARTTLS rejected: 421 bye", StartTLS},
		{"replies in the clear behind STARTTLS", Config{TLSMode: RequireTLS},
			greeted("STARTTLS") + "C: STARTTLS\nS: 220 go\nS: 250-mx.test\nS: 250 AUTH PLAIN\n",
			"Remote host sent too much data", StartTLS},
		{"two greetings", Config{}, "S: 220 mx.test\nS: 220 mx.test\n", "Remote host sent too much data", Hello},
		{"a reply without code", Config{}, "S: hi\n", "Bad response: line too short", Banner},
		{"a code that is none", Config{}, "S: 999 hello\n", "Bad response: reply code out of range", Banner},
		{"a positive number", Config{}, "S: +22 hello\n", "Bad response: reply code out of range", Banner},
		{"codes that differ", Config{}, "S: 220-a\nS: 250 b\n", "Bad response: lines of a reply do not belong together", Banner},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := dial(t, tt.cfg, tt.script)
			err := s.Open(t.Context())
			if err == nil || err.Error() != tt.want {
				t.Errorf("Open: %v, want %s", err, tt.want)
			}
			stage := Stage(0)
			if e, ok := errors.AsType[*Error](err); ok {
				if stage = e.Stage; e.Permanent() {
					t.Errorf("%v is permanent", err)
				}
			} else if e, ok := errors.AsType[*ConnError](err); ok {
				stage = e.Stage
			}
			if stage != tt.stage {
				t.Errorf("stage %v, want %v", stage, tt.stage)
			}
			if s.Usable() {
				t.Error("session is usable")
			}
			expect(t, s.Send(t.Context(), message(t, "hi\n", "b@y.test")), "MAIL temporary Session has ended")
		})
	}
}

func TestServerWithoutEHLO(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{TLSMode: OpportunisticTLS, TLS: &tls.Config{}}, `
		S: 220-mx.test
		S: 220 here
		C: EHLO me.test
		S: 500 what?
		C: HELO me.test
		S: 250 mx.test
		C: MAIL FROM:<a@x.test>
		S: 250 ok
		C: RCPT TO:<b@y.test>
		S: 250 ok
		C: DATA
		S: 354 go
		C: hi
		C: .
		S: 250 taken
		C: QUIT
		S: 221 bye`)
	tx := message(t, "hi\n", "b@y.test")
	tx.EightBit, tx.Ret, tx.EnvID = true, "FULL", "x" // nothing of it is known to the server
	expect(t, s.Send(t.Context(), tx), "EOM ok 250 taken")
	quit(t, s)
}

func TestOpportunisticTLSIsNoDemand(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"refused":     greeted("STARTTLS") + "C: STARTTLS\nS: 454 4.7.0 no\nC: QUIT\nS: 221 bye\n",
		"not offered": greeted("SIZE") + "C: QUIT\nS: 221 bye\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, Config{TLSMode: OpportunisticTLS, TLS: &tls.Config{}}, script)
			if s.TLS() != nil || !s.Usable() {
				t.Errorf("TLS %v, usable %v", s.TLS(), s.Usable())
			}
			quit(t, s)
		})
	}
}

func TestExtensions(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{}, greeted("pipelining", "Chunking", "8bitmime", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "REQUIRETLS",
		"SIZE 1000", "AUTH plain LOGIN", "AUTH=CRAM-MD5", "LIMITS RCPTMAX=7 MAILMAX=3 RCPTDOMAINMAX=1 RCPTMAX=x FOO", "XCLIENT")+
		"C: QUIT\nS: 221 bye\n")
	e := s.Extensions()
	if !e.Extended || !e.Pipelining || !e.Chunking || !e.EightBit || !e.UTF8 || !e.DSN || !e.Enhanced || !e.RequireTLS || e.StartTLS ||
		!e.Size || e.MaxSize != 1000 || e.MaxRcpts != 7 || e.MaxMails != 3 || e.MaxDomains != 1 ||
		!slices.Equal(e.Auth, []string{"PLAIN", "LOGIN", "CRAM-MD5"}) {
		t.Errorf("extensions %+v", e)
	}
	if s.Name() != "mx.test" {
		t.Errorf("name %q", s.Name())
	}
	quit(t, s)
}

func TestTheServersNameIsNoExtension(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{}, "S: 220 x\nC: EHLO me.test\nS: 250-PIPELINING\nS: 250 SIZE\nC: QUIT\nS: 221 bye\n")
	if e := s.Extensions(); e.Pipelining || !e.Size {
		t.Errorf("extensions %+v", e)
	}
	quit(t, s)
}

func TestNoopAndReset(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{}, greeted()+"C: NOOP\nS: 250 ok\nC: RSET\nS: 250 ok\nC: NOOP\nS: 451 no\n")
	if err := s.Noop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Noop(t.Context()); err == nil || err.Error() != "451 no" || s.Usable() {
		t.Errorf("NOOP refused: %v, usable %v", err, s.Usable())
	}
	if err := s.Noop(t.Context()); !errors.Is(err, ErrNotUsable) {
		t.Errorf("NOOP over a session that is over: %v", err)
	}
}
