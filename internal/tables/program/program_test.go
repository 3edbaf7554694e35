package program

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/tabletest"
)

// services are all but auth.
func services() []table.Service {
	return []table.Service{table.Alias, table.Domain, table.Credentials, table.NetAddr, table.UserInfo, table.Source, table.MailAddr,
		table.AddrName, table.MailAddrMap, table.RelayHost, table.String, table.Regex}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, list bool, rows []tabletest.Row) table.Table {
		kind := static.Map
		if list {
			kind = static.List
		}
		var entries []static.Entry
		for _, r := range rows {
			entries = append(entries, static.Entry{Key: r.Key, Value: r.Value})
		}
		rowTable, err := static.New(kind, entries, static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return Open(Options{Name: "t", Warn: func(err error) { t.Error(err) }, Start: starts(func(c net.Conn) {
			if err := table.Serve(context.Background(), c, c, rowTable, services()...); err != nil {
				t.Error(err)
			}
		})})
	})
}

// starts makes programs of a function that talks over a socket.
func starts(f func(c net.Conn)) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			f(theirs)
		}()
		return ours, nil
	}
}

// fake is a program that answers lines; the daemon's configuration is read and
// alias is offered before.
func fake(answer func(c net.Conn, in *bufio.Scanner)) func(c net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewScanner(c)
		for in.Scan() && in.Text() != "config|ready" {
		}
		fmt.Fprint(c, "register|alias\nregister|ready\n")
		answer(c, in)
	}
}

// open opens a table and collects its warnings.
func open(t *testing.T, o Options, f func(c net.Conn)) (*Table, chan error) {
	t.Helper()
	warnings := make(chan error, 1000)
	o.Name, o.Start, o.Warn = "t", starts(f), func(err error) { warnings <- err }
	tab := Open(o)
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab, warnings
}

// id returns the id of a lookup line.
func id(line string) string { return strings.Split(line, "|")[6] }

func TestQuestionsArePipelinedAndAnsweredInAnyOrder(t *testing.T) {
	t.Parallel()
	tab, _ := open(t, Options{}, fake(func(c net.Conn, in *bufio.Scanner) {
		var lines []string
		for len(lines) < 100 && in.Scan() {
			lines = append(lines, in.Text())
		}
		for i := len(lines) - 1; i >= 0; i-- {
			fmt.Fprintf(c, "lookup-result|%s|found|v%s\n", id(lines[i]), strings.Split(lines[i], "|")[7])
		}
		in.Scan()
	}))
	got := make(chan string, 100)
	for i := range 100 {
		go func() {
			v, err := tab.Lookup(t.Context(), table.Alias, fmt.Sprint("K", i))
			if want := fmt.Sprint("vk", i); err != nil || v != want {
				t.Errorf("Lookup = %q, %v, want %q", v, err, want)
			}
			got <- v
		}()
	}
	for range 100 {
		<-got
	}
}

func TestProgramThatTalksNonsenseIsStartedAgain(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(c net.Conn, line string){
		"ends":            func(net.Conn, string) {},
		"other line":      func(c net.Conn, _ string) { fmt.Fprint(c, "hello\n") },
		"unknown id":      func(c net.Conn, _ string) { fmt.Fprint(c, "lookup-result|ffff|found|x\n") },
		"other operation": func(c net.Conn, line string) { fmt.Fprintf(c, "check-result|%s|found\n", id(line)) },
		"no value":        func(c net.Conn, line string) { fmt.Fprintf(c, "lookup-result|%s|found\n", id(line)) },
		"binary":          func(c net.Conn, _ string) { fmt.Fprint(c, "\x00\x01\x02\n") },
		"endless line":    func(c net.Conn, _ string) { fmt.Fprint(c, strings.Repeat("x", 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lives atomic.Int32
			tab, warnings := open(t, Options{}, fake(func(c net.Conn, in *bufio.Scanner) {
				first := lives.Add(1) == 1
				for in.Scan() {
					if first {
						say(c, in.Text())
						return
					}
					fmt.Fprintf(c, "lookup-result|%s|found|x\n", id(in.Text()))
				}
			}))
			if v, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil || errors.Is(err, table.ErrNotFound) {
				t.Errorf("Lookup = %q, %v, want a temporary error", v, err)
			}
			if err := <-warnings; !strings.Contains(err.Error(), "table t: its program") {
				t.Errorf("warning: %v", err)
			}
			if v, err := tab.Lookup(t.Context(), table.Alias, "a"); err != nil || v != "x" {
				t.Errorf("Lookup after the new start = %q, %v", v, err)
			}
		})
	}
}

// However often a program answers by the wrong word, its table goes on: no question
// takes a place from those that come later.
func TestWrongAnswersLeaveRoomForQuestions(t *testing.T) {
	t.Parallel()
	var lives atomic.Int32
	tab, _ := open(t, Options{Settled: 1}, fake(func(c net.Conn, in *bufio.Scanner) {
		for in.Scan() {
			if lives.Add(1) > maxOutstanding {
				fmt.Fprintf(c, "lookup-result|%s|found|x\n", id(in.Text()))
			} else {
				fmt.Fprintf(c, "check-result|%s|found\n", id(in.Text()))
			}
		}
	}))
	for {
		v, err := tab.Lookup(t.Context(), table.Alias, "a")
		if v == "x" {
			return
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("after %d wrong answers: %v", lives.Load(), err)
		}
	}
}

func TestProgramOfTheOldProtocolIsNamed(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(net.Conn){
		"ends": func(net.Conn) {},
		"binary": func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			_, _ = c.Write([]byte("\x01\x00\x00\x00\x14\x00\x00\n"))
		},
		"waits": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, warnings := open(t, Options{Handshake: 50 * time.Millisecond}, f)
			if err := <-warnings; !strings.Contains(err.Error(), "before 7.6") {
				t.Errorf("warning: %v", err)
			}
		})
	}
}

func TestSilentProgramIsEnded(t *testing.T) {
	t.Parallel()
	var lives atomic.Int32
	tab, warnings := open(t, Options{Answer: 20 * time.Millisecond, Silence: 50 * time.Millisecond}, fake(func(c net.Conn, in *bufio.Scanner) {
		silent := lives.Add(1) == 1
		for in.Scan() {
			if !silent {
				fmt.Fprintf(c, "lookup-result|%s|not-found\n", id(in.Text()))
			}
		}
	}))
	if _, err := tab.Lookup(t.Context(), table.Alias, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lookup: %v, want that no answer came", err)
	}
	if err := <-warnings; !strings.Contains(err.Error(), "answered none of") {
		t.Errorf("warning: %v", err)
	}
	for {
		_, err := tab.Lookup(t.Context(), table.Alias, "a")
		if errors.Is(err, table.ErrNotFound) {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestProgramThatNeverComesUpIsTriedWithPauses(t *testing.T) {
	t.Parallel()
	tried := make(chan struct{}, 100)
	tab := Open(Options{Name: "t", Warn: func(error) {}, MaxPause: time.Millisecond, Start: func(context.Context) (io.ReadWriteCloser, error) {
		tried <- struct{}{}
		return nil, errors.New("no such file")
	}})
	for range 5 {
		<-tried
	}
	if _, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Lookup: %v, want the reason", err)
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}

func TestKeysThatWouldBreakTheLineAreRefused(t *testing.T) {
	t.Parallel()
	tab, _ := open(t, Options{}, fake(func(_ net.Conn, in *bufio.Scanner) {
		if in.Scan() {
			t.Errorf("the program was asked %q", in.Text())
		}
	}))
	for _, key := range []string{"a\nregister|x", "a\r", "a\x00", strings.Repeat("x", 1<<20)} {
		if _, err := tab.Lookup(t.Context(), table.Alias, key); err == nil || errors.Is(err, table.ErrNotFound) {
			t.Errorf("Lookup(%.20q): %v", key, err)
		}
	}
}

func TestPasswordsAndUserNamesKeepTheirCase(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	rows := table.Funcs{OnLookup: func(_ context.Context, s table.Service, key string) (string, error) {
		asked <- string(s) + " " + key
		return "", table.ErrNotFound
	}}
	tab, _ := open(t, Options{}, func(c net.Conn) {
		_ = table.Serve(context.Background(), c, c, rows, table.Auth, table.Credentials, table.Regex, table.MailAddr)
	})
	for _, s := range []table.Service{table.Auth, table.Credentials, table.Regex, table.MailAddr} {
		if _, err := tab.Lookup(t.Context(), s, "Bob:Secret"); !errors.Is(err, table.ErrNotFound) {
			t.Error(err)
		}
	}
	for _, want := range []string{"auth Bob:Secret", "credentials Bob:Secret", "credentials bob:secret", "regex Bob:Secret", "mailaddr bob:secret"} {
		if got := <-asked; got != want {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
}

// FuzzProgram states that nothing a program writes makes a question hang, panic or
// be answered with a text that has a line break.
func FuzzProgram(f *testing.F) {
	f.Add("register|alias\nregister|ready\nlookup-result|00000001|found|x\n")
	f.Add("register|alias\nregister|ready\nlookup-result|00000001|not-found\nlookup-result|00000001|not-found\n")
	f.Add("register|ready\n")
	f.Add("\x00\n")
	f.Fuzz(func(t *testing.T, says string) {
		tab := Open(Options{Name: "t", Warn: func(error) {}, Answer: 50 * time.Millisecond, Start: starts(func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			_, _ = io.WriteString(c, says)
		})})
		if v, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil && strings.ContainsAny(v, "\n") || errors.Is(err, errClosed) {
			t.Errorf("Lookup = %q, %v", v, err)
		}
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
}
