package auth

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

func credentials(t testing.TB, kv ...string) table.Table {
	t.Helper()
	var entries []static.Entry
	for i := 0; i < len(kv); i += 2 {
		entries = append(entries, static.Entry{Key: kv[i], Value: kv[i+1]})
	}
	tab, err := static.New(static.Map, entries, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func newChecker(t testing.TB, o Options) *Checker {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hashes of "Secret pw", made by libxcrypt.
var hashes = map[string]string{
	"md5":      "$1$abcdefgh$Fz.Hjlg79npSSBDtQPSeM0",
	"bcrypt":   "$2b$05$abcdefghijklmnopqrstuuaFce/BzCiEqH8jSSPQLbXujamEAISfO",
	"bcrypt-y": "$2y$05$abcdefghijklmnopqrstuuaFce/BzCiEqH8jSSPQLbXujamEAISfO",
	"bcrypt-a": "$2a$05$abcdefghijklmnopqrstuuaFce/BzCiEqH8jSSPQLbXujamEAISfO",
	"sha256":   "$5$rounds=1000$abcdefgh$LnQMbQv1.vHDea0j0TdRVTuDyCEp2fVkluqM99FoFXB",
	"sha512":   "$6$rounds=1000$abcdefgh$.JZYYaDr.plmKOK7WMNGz2bikssJpLnvBTHsM.XNCHgzP4gnXRMFZiayr9oHpeV.K7IhiKOLUpO7O7Ee4aCZz.",
	"yescrypt": "$y$j75$abcdefgh$cWJBluexusFAKeesoKQhuiIks.NrsbZo/Clw9u2tgn5",
	"sha1":     "$sha1$1000$abcdefgh$O6PndnxgW9Vf0p9x7KuxLc5.BbYV",
	"dovecot":  "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuaFce/BzCiEqH8jSSPQLbXujamEAISfO",
}

func TestPasswordOfEachKindOfHash(t *testing.T) {
	t.Parallel()
	c := newChecker(t, Options{})
	for name, hash := range hashes {
		for _, value := range []string{hash, "someone:" + hash} {
			tab := credentials(t, "alice", value)
			if err := c.Check(t.Context(), tab, "alice", "Secret pw"); err != nil {
				t.Errorf("%s: right password: %v", name, err)
			}
			if err := c.Check(t.Context(), tab, "alice", "secret pw"); !errors.Is(err, ErrDenied) {
				t.Errorf("%s: password in small letters: %v, want ErrDenied", name, err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	c := newChecker(t, Options{})
	tab := credentials(t, "alice", hashes["bcrypt"], "locked", "!"+hashes["bcrypt"], "star", "***", "clear", "Secret pw", "broken", "$6$$$", "yes", "$y$zz$x$y", "short", "ab")
	for _, tt := range []struct {
		name, user, password string
		code                 int
	}{
		{"wrong password", "alice", "x", 535},
		{"unknown user", "nobody", "Secret pw", 535},
		{"empty password", "alice", "", 535},
		{"empty user", "", "x", 535},
		{"line break in the user", "alice\nx", "x", 535},
		{"line break in the password", "alice", "x\n", 535},
		{"colon in the user", "alice:x", "x", 535},
		{"locked", "locked", "Secret pw", 535},
		{"star", "star", "***", 535},
		{"table holds a clear text", "clear", "Secret pw", 454},
		{"table holds a damaged hash", "broken", "x", 454},
		{"table holds a damaged yescrypt", "yes", "x", 454},
		{"table holds too little", "short", "ab", 454},
	} {
		err := c.Check(t.Context(), tab, tt.user, tt.password)
		if se, ok := errors.AsType[*smtp.Error](err); !ok || se.Code != tt.code || errors.Is(err, ErrDenied) != (tt.code == 535) {
			t.Errorf("%s: %v, want code %d", tt.name, err, tt.code)
		}
	}
}

// asker is a table that checks passwords itself.
type asker struct {
	table.Table
	err error
}

func (a asker) Lookup(_ context.Context, s table.Service, key string) (string, error) {
	if s == table.Auth && key == "Alice:Secret:PW" {
		return key, nil
	}
	return "", a.err
}

func TestTableThatChecksPasswordsSeesThemAsTheyAre(t *testing.T) {
	t.Parallel()
	c := newChecker(t, Options{})
	if err := c.Check(t.Context(), asker{err: table.ErrNotFound}, "Alice", "Secret:PW"); err != nil {
		t.Errorf("right password: %v", err)
	}
	if err := c.Check(t.Context(), asker{err: table.ErrNotFound}, "alice", "Secret:PW"); !errors.Is(err, ErrDenied) {
		t.Errorf("not found: %v, want ErrDenied", err)
	}
	away := errors.New("away")
	if err := c.Check(t.Context(), asker{err: away}, "alice", "x"); !errors.Is(err, away) || errors.Is(err, ErrDenied) {
		t.Errorf("table away: %v, want a temporary error", err)
	}
}

func TestChecksBeyondTheBoundAreTurnedAway(t *testing.T) {
	t.Parallel()
	c := newChecker(t, Options{Parallel: 1, Waiting: 1})
	tab := credentials(t, "alice", hashes["bcrypt"])
	for range cap(c.queue) { // as many checks are under way or waiting
		c.queue <- struct{}{}
	}
	for _, user := range []string{"alice", "nobody"} {
		if err := c.Check(t.Context(), tab, user, "Secret pw"); !errors.Is(err, ErrBusy) {
			t.Errorf("check of %s: %v, want ErrBusy", user, err)
		}
	}
	<-c.queue
	if err := c.Check(t.Context(), tab, "alice", "Secret pw"); err != nil {
		t.Errorf("check with a place free: %v", err)
	}
}

func TestMaySend(t *testing.T) {
	t.Parallel()
	tab := credentials(t, "alice", `alice@example.org, "a b"@example.org, @alice.example`, "any", "@", "bad", `"`)
	for _, tt := range []struct {
		user   string
		sender smtp.Path
		want   bool
	}{
		{"alice", smtp.Path{Local: "Alice", Domain: "EXAMPLE.org"}, true},
		{"alice", smtp.Path{Local: "alice+x", Domain: "example.org"}, true},
		{"alice", smtp.Path{Local: "a b", Domain: "example.org"}, true},
		{"alice", smtp.Path{Local: "any", Domain: "alice.example"}, true},
		{"alice", smtp.Path{Local: "bob", Domain: "example.org"}, false},
		{"alice", smtp.Path{}, false},
		{"any", smtp.Path{}, true},
		{"nobody", smtp.Path{Local: "x", Domain: "y"}, false},
	} {
		if got, err := MaySend(t.Context(), tab, tt.user, tt.sender, "+"); err != nil || got != tt.want {
			t.Errorf("MaySend(%s, %s) = %v, %v, want %v", tt.user, tt.sender, got, err, tt.want)
		}
	}
	if ok, err := MaySend(t.Context(), tab, "bad", smtp.Path{}, "+"); err == nil || ok {
		t.Errorf("damaged entry: %v, %v, want an error", ok, err)
	}
}

func TestParseCredentials(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]Credentials{
		"bob:a:b": {"bob", "a:b"},
		"secret":  {"label", "secret"},
		":secret": {},
		"bob:":    {},
		"ab":      {},
	} {
		if got, err := ParseCredentials("label", value); got != want || (err == nil) != (want != Credentials{}) {
			t.Errorf("ParseCredentials(%q) = %v, %v, want %v", value, got, err, want)
		}
	}
}

func TestFailuresOfASourceAreDelayedThenRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(Limits{Cap: 8, Forgive: time.Hour})
		fail := func(context.Context) error { return denied(ErrDenied) }
		for i, want := range []time.Duration{0, 0, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second} {
			start := time.Now()
			if err := l.Do(t.Context(), "192.0.2.1", fail); !errors.Is(err, ErrDenied) || time.Since(start) != want {
				t.Errorf("failure %d: %v after %v, want ErrDenied after %v", i, err, time.Since(start), want)
			}
		}
		right := func(context.Context) error { return nil }
		if err := l.Do(t.Context(), "192.0.2.1", right); !errors.Is(err, ErrSource) {
			t.Errorf("right password behind the cap: %v, want ErrSource", err)
		}
		if err := l.Do(t.Context(), "192.0.2.2", right); err != nil {
			t.Errorf("another source: %v", err)
		}
		time.Sleep(time.Hour)
		if err := l.Do(t.Context(), "192.0.2.1", right); err != nil {
			t.Errorf("an hour later: %v", err)
		}
	})
}

func TestOnlyWrongPasswordsCount(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	l := NewLimiter(Limits{Now: func() time.Time { return now }})
	for range 100 {
		for _, err := range []error{nil, temporary(errors.New("away"))} {
			if got := l.Do(t.Context(), "[2001:db8::1]", func(context.Context) error { return err }); got != err {
				t.Fatalf("Do = %v, want %v", got, err)
			}
		}
	}
	if d, err := l.Begin("[2001:db8::1]"); d != 0 || err != nil {
		t.Errorf("Begin = %v, %v, want no delay", d, err)
	}
}

func TestSourcesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	l := NewLimiter(Limits{Sources: 3, Cap: 1, Now: func() time.Time { return now }})
	begin := func(client string, refused bool) {
		t.Helper()
		if _, err := l.Begin(client); errors.Is(err, ErrSource) != refused {
			t.Errorf("Begin(%s): %v, want refused %v", client, err, refused)
		}
	}
	begin("[2001:db8::1]", false)
	begin("[2001:db8::ffff]", true) // the same /64
	begin("192.0.2.1", false)
	begin("192.0.2.2", false)
	begin("192.0.2.1", true)
	begin("192.0.2.3", false) // forgets the IPv6 network
	begin("[2001:db8::1]", false)
	if len(l.sources) != 3 || l.recent.Len() != 3 {
		t.Errorf("%d sources remembered, want 3", len(l.sources))
	}
}
