package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/table"
)

// serve answers on a socket until the test ends; each connection takes up to most
// questions.
func serve(t *testing.T, most int, answer func(question string) string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for range most {
					q, err := readNetstring(r)
					if err != nil {
						return
					}
					if _, err := fmt.Fprint(c, answer(q)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return path
}

func netstring(s string) string { return fmt.Sprintf("%d:%s,", len(s), s) }

func TestQuestions(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 1000} { // a server that closes after each answer, and one that does not
		path := serve(t, most, func(q string) string {
			switch q {
			case "users root":
				return netstring("OK alice, bob")
			case "users none":
				return netstring("NOTFOUND ")
			case "users down":
				return netstring("TEMP no database")
			case "users rubbish":
				return "rubbish"
			case "users big":
				return "999999:"
			}
			return netstring("OK " + q)
		})
		s := newSocketmap("unix", path, "users", 4, 10*time.Second)
		for _, tt := range []struct{ key, want, fail string }{
			{"root", "alice, bob", ""}, {"none", "", "not found"}, {"down", "", "no database"}, {"rubbish", "", "netstring"},
			{"big", "", "netstring"}, {"a b", "users a b", ""}, {"root", "alice, bob", ""},
		} {
			got, err := s.Lookup(t.Context(), table.Alias, tt.key)
			if got != tt.want || (err != nil) != (tt.fail != "") || err != nil && !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("Lookup(%q) = %q, %v, want %q %q", tt.key, got, err, tt.want, tt.fail)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	s := newSocketmap("unix", serve(t, 1000, func(q string) string { return netstring("OK " + q) }), "m", 3, 30*time.Second)
	done := make(chan error, 100)
	for i := range 100 {
		go func() {
			key := fmt.Sprint("k", i)
			got, err := s.Lookup(t.Context(), table.Alias, key)
			if err == nil && got != "m "+key {
				err = fmt.Errorf("%q for %q", got, key)
			}
			done <- err
		}()
	}
	for range 100 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestServerThatIsAwayIsATemporaryFailure(t *testing.T) {
	t.Parallel()
	s := newSocketmap("unix", filepath.Join(t.TempDir(), "none"), "m", 3, time.Second)
	if _, err := s.Lookup(t.Context(), table.Alias, "a"); err == nil || errors.Is(err, table.ErrNotFound) {
		t.Errorf("Lookup: %v", err)
	}
}

// An answer too many would be taken for that to the next question.
func TestServerThatAnswersTwiceIsNotBelieved(t *testing.T) {
	t.Parallel()
	path := serve(t, 1000, func(q string) string { return netstring("OK "+q) + netstring("OK mallory") })
	s := newSocketmap("unix", path, "m", 1, 10*time.Second)
	for _, key := range []string{"a", "b", "c"} {
		if v, err := s.Lookup(t.Context(), table.Alias, key); v != "" && v != "m "+key || errors.Is(err, table.ErrNotFound) {
			t.Errorf("%s: %q, %v", key, v, err)
		}
	}
}

// FuzzNetstring states that any text within the bound is read back from its netstring
// and nothing behind it is touched; that what is read as a netstring prints back the same;
// and that an answer is one of found, not found and an error.
func FuzzNetstring(f *testing.F) {
	for _, in := range []string{"5:OK ab,", "0:,", "05:OK ab,", "9:NOTFOUND ,", "8:TEMP x y,rest", "16:OK alice@ex,ampl,", "999999:", ":,", "3:abc;"} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		const rest = "7:next one"
		if len(in) <= maxReply {
			r := bufio.NewReader(strings.NewReader(netstring(in) + rest))
			got, err := readNetstring(r)
			behind, _ := io.ReadAll(r)
			if err != nil || got != in || string(behind) != rest {
				t.Errorf("%q is read back as %q, %v, before %q", in, got, err, behind)
			}
		}
		s, err := readNetstring(bufio.NewReader(strings.NewReader(in)))
		if err != nil {
			return
		}
		if !strings.HasPrefix(in, netstring(s)) || len(s) > maxReply {
			t.Errorf("%q is read as %q", in, s)
		}
		if value, err := answer(s); err == nil && s != "OK" && s != "OK "+value {
			t.Errorf("%q means %q", s, value)
		}
	})
}
