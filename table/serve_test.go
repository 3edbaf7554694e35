package table_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opensmtpd/opensmtpd/table"
)

// A table program that knows one alias.
func ExampleServe() {
	t := table.Funcs{OnLookup: func(_ context.Context, _ table.Service, key string) (string, error) {
		if strings.EqualFold(key, "root") {
			return "alice", nil
		}
		return "", table.ErrNotFound
	}}
	daemon := strings.NewReader(`config|smtpd-version|8.0.0
config|protocol|0.1
config|tablename|aliases
config|ready
table|0.1|1700000000.000001|aliases|lookup|alias|1|root
`)
	if err := table.Serve(context.Background(), daemon, os.Stdout, t, table.Alias); err != nil {
		fmt.Println(err)
	}
	// Output:
	// register|alias
	// register|ready
	// lookup-result|1|found|alice
}

const hello = "config|smtpd-version|8\nconfig|protocol|0.1\nconfig|tablename|t\nconfig|ready\n"

func TestServeAnswersEachQuestion(t *testing.T) {
	t.Parallel()
	tab := table.Funcs{
		OnLookup: func(_ context.Context, s table.Service, key string) (string, error) {
			switch key {
			case "none":
				return "", table.ErrNotFound
			case "down":
				return "", errors.New("no\nserver")
			case "break":
				return "a\nb", nil
			case "empty":
				return "", nil
			}
			return string(s) + "=" + key, nil
		},
		OnUpdate: func(context.Context) error { return errors.New("not now") },
	}
	for _, tt := range []struct{ in, want string }{
		{"lookup|alias|1|a|b", "lookup-result|1|found|alias=a|b"},
		{"lookup|alias|1|none", "lookup-result|1|not-found"},
		{"lookup|alias|1|down", "lookup-result|1|error|no server"},
		{"lookup|alias|1|break", "lookup-result|1|error|the value has a line break or is too long"},
		{"lookup|alias|1|empty", "lookup-result|1|error|the value is empty"},
		{"check|domain|1|x", "check-result|1|found"},
		{"check|domain|1|none", "check-result|1|not-found"},
		{"check|string|1|x", "check-result|1|error|service not offered by this table: string"},
		{"fetch|alias|1", "fetch-result|1|error|service not offered by this table: fetch alias"},
		{"update|1", "update-result|1|error|not now"},
	} {
		var out strings.Builder
		in := hello + "table|0.1|1.000000|t|" + tt.in + "\n"
		if err := table.Serve(t.Context(), strings.NewReader(in), &out, tab, table.Alias, table.Domain); err != nil {
			t.Errorf("%s: %v", tt.in, err)
		}
		if want := "register|alias\nregister|domain\nregister|ready\n" + tt.want + "\n"; out.String() != want {
			t.Errorf("%s: got %q, want %q", tt.in, out.String(), want)
		}
	}
}

func TestServeDoesNotWaitForASlowAnswer(t *testing.T) {
	t.Parallel()
	slow := make(chan struct{})
	tab := table.Funcs{OnLookup: func(_ context.Context, _ table.Service, key string) (string, error) {
		if key == "slow" {
			<-slow
		}
		return key, nil
	}}
	in, daemon := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- table.Serve(t.Context(), in, out, tab, table.Alias); out.Close() }()
	go func() {
		_, _ = io.WriteString(daemon, hello+"table|0.1|1.000000|t|lookup|alias|1|slow\ntable|0.1|1.000000|t|lookup|alias|2|quick\n")
		daemon.Close()
	}()
	var got strings.Builder
	buf := make([]byte, 1)
	for !strings.Contains(got.String(), "|quick\n") {
		if _, err := answers.Read(buf); err != nil {
			t.Fatalf("%v after %q", err, got.String())
		}
		got.Write(buf)
	}
	close(slow)
	rest, err := io.ReadAll(answers)
	if err != nil || string(rest) != "lookup-result|1|found|slow\n" {
		t.Errorf("after the quick answer: %q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServeAnswersManyAtOnce(t *testing.T) {
	t.Parallel()
	var in strings.Builder
	in.WriteString(hello)
	var want []string
	for i := range 2000 {
		fmt.Fprintf(&in, "table|0.1|1.000000|t|lookup|alias|%d|k%d\n", i, i)
		want = append(want, fmt.Sprintf("lookup-result|%d|found|k%d", i, i))
	}
	var mu sync.Mutex
	running, most := 0, 0
	tab := table.Funcs{OnLookup: func(_ context.Context, _ table.Service, key string) (string, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() { mu.Lock(); running--; mu.Unlock() }()
		return key, nil
	}}
	var out strings.Builder
	if err := table.Serve(t.Context(), strings.NewReader(in.String()), &out, tab, table.Alias); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")[2:]
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d answers, want %d", len(got), len(want))
	}
	if most > 256 {
		t.Errorf("%d questions at a time", most)
	}
}

func TestServeRefusesWhatIsNotTheProtocol(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "config|protocol|0.1\n", "config|protocol|0.2\nconfig|ready\n", "table|0.1|1.000000|t|update|1\n",
		hello + "\x00\x01\x02\n", hello + "table|0.1|1.000000|t|drop|1\n", hello + strings.Repeat("x", 1<<20) + "\n",
	} {
		if err := table.Serve(t.Context(), strings.NewReader(in), io.Discard, table.Funcs{}, table.Alias); err == nil {
			t.Errorf("%.60q: no error", in)
		}
	}
	if err := table.Serve(t.Context(), strings.NewReader(hello), io.Discard, table.Funcs{}); err == nil {
		t.Error("a program without services: no error")
	}
}
