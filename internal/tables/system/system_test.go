package system

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/table"
)

// site is a set of users that counts the questions.
type site struct {
	users map[string]platform.User
	asked int
	err   error
}

func (s *site) User(_ context.Context, name string) (platform.User, error) {
	s.asked++
	if s.err != nil {
		return platform.User{}, s.err
	}
	if u, ok := s.users[name]; ok {
		return u, nil
	}
	return platform.User{}, fmt.Errorf("user %s: %w", name, platform.ErrNoUser)
}

func TestUserInfoIsKeptForAMinute(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	s := &site{users: map[string]platform.User{"alice": {Name: "alice", UID: 1000, GID: 100, Home: "/home/alice"}}}
	tab := New(s, func() time.Time { return now })
	for i, step := range []struct {
		name  string
		after time.Duration
		want  string
		asked int
	}{
		{"Alice", 0, "1000:100:/home/alice", 1},
		{"alice", 59 * time.Second, "1000:100:/home/alice", 1},
		{"alice", time.Second, "1000:100:/home/alice", 2},
		{"bob", 0, "", 3},
		{"bob", 0, "", 4},
	} {
		now = now.Add(step.after)
		got, err := tab.Lookup(t.Context(), table.UserInfo, step.name)
		if got != step.want || s.asked != step.asked || (err != nil) != (step.want == "") {
			t.Errorf("step %d: Lookup(%q) = %q, %v after %d questions, want %q after %d", i, step.name, got, err, s.asked, step.want, step.asked)
		}
	}
	if err := tab.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.err = errors.New("directory server is away")
	if _, err := tab.Lookup(t.Context(), table.UserInfo, "alice"); err == nil || errors.Is(err, table.ErrNotFound) {
		t.Errorf("Lookup while the source is away: %v, want an error that is not ErrNotFound", err)
	}
}

func TestUserFoundByNumberIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := &site{users: map[string]platform.User{"1000": {Name: "alice", UID: 1000, Home: "/"}, "2000": {Name: "2000", UID: 1, Home: "/"}}}
	tab := New(s, nil)
	if got, err := tab.Lookup(t.Context(), table.UserInfo, "1000"); !errors.Is(err, table.ErrNotFound) {
		t.Errorf("Lookup(1000) = %q, %v, want ErrNotFound", got, err)
	}
	if _, err := tab.Lookup(t.Context(), table.UserInfo, "2000"); err != nil {
		t.Errorf("Lookup(2000): %v", err)
	}
}

func TestStrangeNamesAreNeverAsked(t *testing.T) {
	t.Parallel()
	s := &site{}
	tab := New(s, nil)
	for _, name := range []string{"", "-x", "a:b", "../x", "a b", "a\nb", "\xff"} {
		if _, err := tab.Lookup(t.Context(), table.UserInfo, name); !errors.Is(err, table.ErrNotFound) {
			t.Errorf("Lookup(%q): %v, want ErrNotFound", name, err)
		}
	}
	if _, err := tab.Lookup(t.Context(), table.Alias, "alice"); !errors.Is(err, table.ErrUnsupported) {
		t.Errorf("Lookup(alias): %v, want ErrUnsupported", err)
	}
	if s.asked != 0 {
		t.Errorf("%d questions reached the system", s.asked)
	}
}
