package client

import (
	"encoding/base64"
	"strings"
	"testing"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestAuth(t *testing.T) {
	t.Parallel()
	alice := &Credentials{User: "alice", Password: "secret"}
	long := &Credentials{User: "alice", Password: strings.Repeat("x", 400)}
	token := &Credentials{User: "alice", Password: "t0ken", Bearer: true}
	for _, tt := range []struct {
		name   string
		c      *Credentials
		offer  string
		script string
		want   string // error, empty for success
	}{
		{"PLAIN", alice, "AUTH LOGIN PLAIN", "C: AUTH PLAIN " + b64("\x00alice\x00secret") + "\nS: 235 ok\n", ""},
		{"PLAIN refused", alice, "AUTH PLAIN", "C: AUTH PLAIN " + b64("\x00alice\x00secret") + "\nS: 535 5.7.8 no\n", "AUTH rejected: 535 5.7.8 no"},
		{"PLAIN too long for the command", long, "AUTH PLAIN",
			"C: AUTH PLAIN\nS: 334\nC: " + b64("\x00alice\x00"+long.Password) + "\nS: 235 ok\n", ""},
		{"PLAIN with a challenge", alice, "AUTH PLAIN", "C: AUTH PLAIN " + b64("\x00alice\x00secret") + "\nS: 334 " + b64("why?") + "\nC: *\nS: 501 so be it\n",
			"AUTH PLAIN: unexpected challenge"},
		{"LOGIN", alice, "AUTH LOGIN", "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: " + b64("alice") + "\nS: 334 UGFzc3dvcmQ6\nC: " + b64("secret") + "\nS: 235 ok\n", ""},
		{"LOGIN that asks on", alice, "AUTH LOGIN",
			"C: AUTH LOGIN\nS: 334\nC: " + b64("alice") + "\nS: 334\nC: " + b64("secret") + "\nS: 334\nC: *\nS: 501 so be it\n", "AUTH LOGIN: unexpected challenge"},
		{"XOAUTH2", token, "AUTH PLAIN XOAUTH2", "C: AUTH XOAUTH2 " + b64("user=alice\x01auth=Bearer t0ken\x01\x01") + "\nS: 235 ok\n", ""},
		{"XOAUTH2 refused", token, "AUTH XOAUTH2",
			"C: AUTH XOAUTH2 " + b64("user=alice\x01auth=Bearer t0ken\x01\x01") + "\nS: 334 e30=\nC:\nS: 535 5.7.8 no\n", "AUTH rejected: 535 5.7.8 no"},
		{"a token is no password", token, "AUTH PLAIN LOGIN", "", "no supported AUTH method"},
		{"nothing known", alice, "AUTH CRAM-MD5 GSSAPI", "", "no supported AUTH method"},
		{"not offered", alice, "SIZE", "", "AUTH not advertised"},
		{"a challenge that is no base64", alice, "AUTH LOGIN", "C: AUTH LOGIN\nS: 334 ?\nC: *\nS: 501 no\n", "AUTH LOGIN: illegal base64 data at input byte 0"},
		{"the end announced", alice, "AUTH LOGIN", "C: AUTH LOGIN\nS: 421 bye\n", "AUTH rejected: 421 bye"},
		{"hung up", alice, "AUTH LOGIN", "C: AUTH LOGIN\nclose", "Connection closed unexpectedly"},
		{"user name with NUL", &Credentials{User: "a\x00b"}, "AUTH PLAIN", "", "credentials cannot be sent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := dial(t, Config{Credentials: tt.c, AuthInClear: true}, greeted(tt.offer)+tt.script)
			err := s.Open(t.Context())
			switch {
			case tt.want == "" && (err != nil || !s.Usable()):
				t.Errorf("Open: %v, usable %v", err, s.Usable())
			case tt.want != "" && (err == nil || err.Error() != tt.want):
				t.Errorf("Open: %v, want %s", err, tt.want)
			}
		})
	}
}

func TestNoPasswordInTheClear(t *testing.T) {
	t.Parallel()
	s, _ := dial(t, Config{Credentials: &Credentials{User: "u", Password: "p"}}, greeted("AUTH PLAIN"))
	if err := s.Open(t.Context()); err == nil || err.Error() != "Refuse to AUTH over insecure channel" {
		t.Errorf("Open: %v", err)
	}
}

func TestTraceHidesPasswords(t *testing.T) {
	t.Parallel()
	var seen events
	s, _ := open(t, Config{Credentials: &Credentials{User: "alice", Password: "secret"}, AuthInClear: true, Trace: &seen},
		greeted("AUTH LOGIN")+"C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: "+b64("alice")+"\nS: 334 UGFzc3dvcmQ6\nC: "+b64("secret")+"\nS: 235 ok\nC: QUIT\nS: 221 bye\n")
	quit(t, s)
	all := strings.Join(seen.lines, "\n")
	if strings.Contains(all, b64("secret")) || strings.Contains(all, "secret") || !strings.Contains(all, "> AUTH LOGIN ********\n") ||
		!strings.Contains(all, "\n= AUTH alice <nil>\n") {
		t.Errorf("trace\n%s", all)
	}
}

// The example of RFC 7677 section 3.
const (
	scramNonce = "rOprNGfwEbeRWgbNEkqO"
	scramFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	scramProof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	scramFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func TestScram(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, first, final string
		want               error
	}{
		{"as in RFC 7677", scramFirst, scramFinal, nil},
		{"a server that does not know the password", scramFirst, "v=" + b64(strings.Repeat("x", 32)), errServer},
		{"an error in the end", scramFirst, "e=invalid-proof", errServer},
		{"a server that says nothing in the end", scramFirst, "", errServer},
		{"another nonce", "r=x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "", errChallenge},
		{"no nonce of the server's own", "r=" + scramNonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "", errChallenge},
		{"no salt", "r=" + scramNonce + "x,s=,i=4096", "", errChallenge},
		{"an extension that must be known", "m=x," + scramFirst, "", errChallenge},
		{"few iterations", strings.Replace(scramFirst, "4096", "1", 1), "", errIterations},
		{"endless iterations", strings.Replace(scramFirst, "4096", "2000000000", 1), "", errIterations},
		{"nothing", "", "", errChallenge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := &scram{c: &Credentials{User: "user", Password: "pencil"}, nonce: scramNonce}
			if first, ok := m.start(); string(first) != "n,,n=user,r="+scramNonce || !ok {
				t.Errorf("first message %q", first)
			}
			got, err := m.next([]byte(tt.first))
			if err == nil {
				if string(got) != scramProof {
					t.Errorf("proof %q", got)
				}
				if tt.final != "" {
					_, err = m.next([]byte(tt.final))
				}
			}
			if err == nil {
				err = m.end()
			}
			if err != tt.want {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestScramUserNamesAreQuoted(t *testing.T) {
	t.Parallel()
	m := &scram{c: &Credentials{User: "a=b,c"}, nonce: "x"}
	if first, _ := m.start(); string(first) != "n,,n=a=3Db=2Cc,r=x" {
		t.Errorf("first message %q", first)
	}
}

func TestMechanismOfChoice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		verified bool
		want     string
	}{{true, "PLAIN"}, {false, "SCRAM-SHA-256"}} {
		s := &Session{cfg: Config{Credentials: &Credentials{}}, verified: tt.verified}
		s.ext.Auth = []string{"LOGIN", "SCRAM-SHA-256", "PLAIN"}
		if name, _ := s.chooseMechanism(); name != tt.want {
			t.Errorf("verified %v: %s, want %s", tt.verified, name, tt.want)
		}
	}
}

// FuzzScram: no server gets an exchange accepted that does not know the password.
func FuzzScram(f *testing.F) {
	f.Add(scramFirst, scramFinal)
	f.Fuzz(func(t *testing.T, first, final string) {
		if strings.Contains(first, "i=") && !strings.Contains(first, "i=4096") {
			return // time, not meaning
		}
		m := &scram{c: &Credentials{User: "user", Password: "another"}, nonce: scramNonce}
		m.start()
		if _, err := m.next([]byte(first)); err != nil {
			return
		}
		if _, err := m.next([]byte(final)); err == nil || m.end() == nil {
			t.Fatalf("%q, %q is accepted", first, final)
		}
	})
}
