package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/table"
)

func TestConfigurationLines(t *testing.T) {
	t.Parallel()
	c, err := parseConf("# a comment\n\n url: ldap://h:389 \nquery_alias\tSELECT a FROM b WHERE c=?;\npassword : x y:z\nn 5\nd 90\ne 2m\n")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"url": "ldap://h:389", "query_alias": "SELECT a FROM b WHERE c=?;", "password": "x y:z", "none": ""} {
		if got := c.Get(key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	if c.Int("n", 1, 0) != 5 || c.Delay("d", 0) != 90*time.Second || c.Delay("e", 0) != 2*time.Minute || c.Delay("f", time.Hour) != time.Hour {
		t.Error("numbers are read wrongly")
	}
	if err := c.unused(); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{"a b\na c\n": "2: ", "a\n": "1: ", "a:\n": "1: ", ": b\n": "1: "} {
		if _, err := parseConf(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	c, _ = parseConf("\nn x\nother y\n")
	if c.Int("n", 0, 7) != 7 || c.Err() == nil || !strings.Contains(c.Err().Error(), "line 2") {
		t.Errorf("a bad number: %v", c.Err())
	}
	if err := c.unused(); err == nil || !strings.Contains(err.Error(), `line 3: unknown key "other"`) {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestRowsBecomeValues(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		s    table.Service
		rows [][]string
		want string // empty: not found; "!": an error
	}{
		{table.Alias, [][]string{{"a"}, {"b"}, {""}}, "a, b"},
		{table.Alias, [][]string{{""}}, ""},
		{table.Alias, nil, ""},
		{table.MailAddrMap, [][]string{{"a@x"}, {"@y"}}, "a@x, @y"},
		{table.Credentials, [][]string{{"u", "p"}, {"v", "q"}}, "u:p"},
		{table.Credentials, [][]string{{"p"}}, "p"},
		{table.Credentials, [][]string{{"u", ""}}, ""},
		{table.UserInfo, [][]string{{"1", "2", "/h"}}, "1:2:/h"},
		{table.UserInfo, [][]string{{"1:2:/h"}}, "1:2:/h"},
		{table.UserInfo, [][]string{{"1", "2"}}, "!"},
		{table.Domain, [][]string{{"x"}, {"y"}}, "x"},
		{table.Domain, [][]string{{""}}, ""},
		{table.RelayHost, [][]string{{"smtp://x", "more"}}, "smtp://x"},
	} {
		got, err := Value(tt.s, tt.rows)
		switch tt.want {
		case "":
			if !errors.Is(err, table.ErrNotFound) {
				t.Errorf("%s %q = %q, %v, want ErrNotFound", tt.s, tt.rows, got, err)
			}
		case "!":
			if err == nil || errors.Is(err, table.ErrNotFound) {
				t.Errorf("%s %q = %q, %v, want an error", tt.s, tt.rows, got, err)
			}
		default:
			if err != nil || got != tt.want {
				t.Errorf("%s %q = %q, %v, want %q", tt.s, tt.rows, got, err, tt.want)
			}
		}
	}
}

func TestRotationLoadsAgain(t *testing.T) {
	t.Parallel()
	loads := 0
	lists := [][]string{{"a", "b"}, {"c"}, nil}
	r := &Rotation{Expire: time.Hour, Refresh: 3, Load: func(context.Context) ([]string, error) {
		loads++
		return lists[min(loads, len(lists))-1], nil
	}}
	for i, want := range []string{"a", "b", "a", "c", "c", "c", ""} {
		got, err := r.Next(t.Context())
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%d: %q, %v, want %q", i, got, err, want)
		}
	}
}

// Questions that come while a list is being loaded wait for that, and not each for a
// load of its own: a server that hangs holds them up once.
func TestRotationLoadsOnceForAllWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		loads := 0
		r := &Rotation{Expire: time.Hour, Refresh: 3, Load: func(context.Context) ([]string, error) {
			time.Sleep(10 * time.Second)
			if loads++; loads == 1 {
				return nil, down
			}
			return []string{"a", "b"}, nil
		}}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ask := func(n int) (got []string) {
			answers := make(chan string, n+1)
			next := func(ctx context.Context) {
				v, err := r.Next(ctx)
				answers <- fmt.Sprint(v, err)
			}
			for range n {
				go next(t.Context())
			}
			synctest.Wait()
			go next(hasty)
			for range n + 1 {
				got = append(got, <-answers)
			}
			slices.Sort(got)
			return slices.Compact(got)
		}
		began := time.Now()
		if got := ask(10); !slices.Equal(got, []string{"context deadline exceeded", "down"}) || loads != 1 || time.Since(began) != 10*time.Second {
			t.Errorf("%q after %d loads and %v", got, loads, time.Since(began))
		}
		if got := ask(10); !slices.Equal(got, []string{"a<nil>", "b<nil>", "context deadline exceeded"}) || time.Since(began) != 20*time.Second {
			t.Errorf("%q after %v", got, time.Since(began))
		}
	})
}

func TestGuardFailsAtOnceForAWhile(t *testing.T) {
	t.Parallel()
	var g Guard
	if g.Away() != nil {
		t.Error("away from the start")
	}
	down := errors.New("down")
	g.Tried(down)
	if !errors.Is(g.Away(), down) {
		t.Error("not away after a failure")
	}
	g.Tried(context.Canceled)
	if !errors.Is(g.Away(), down) {
		t.Error("a cancelled question ended the pause")
	}
	g.Tried(nil)
	if g.Away() != nil {
		t.Error("away after a success")
	}
}

// fixed is a source with one answer.
type fixed struct {
	table.Funcs
	services []table.Service
}

func (f fixed) Services() []table.Service { return f.services }

func TestUpdateReadsTheConfigurationAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("answer one\n")
	tab, err := Open("t", path, func(_ string, c *Conf) (Source, error) {
		answer := c.Get("answer")
		f := fixed{services: []table.Service{table.Alias}}
		if c.Get("more") != "" {
			f.services = append(f.services, table.Domain)
		}
		f.OnLookup = func(context.Context, table.Service, string) (string, error) { return answer, nil }
		return f, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	look := func(want string) {
		t.Helper()
		if got, err := tab.Lookup(t.Context(), table.Alias, "x"); err != nil || got != want {
			t.Errorf("Lookup = %q, %v, want %q", got, err, want)
		}
	}
	look("one")
	write("answer two\n")
	if err := tab.Update(t.Context()); err != nil {
		t.Error(err)
	}
	look("two")
	for text, want := range map[string]string{"answer three\nfoo bar\n": "unknown key", "answer three\nmore yes\n": "other services", "answer\n": ":1: "} {
		write(text)
		if err := tab.Update(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		look("two")
	}
}
