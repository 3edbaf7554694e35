package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/tabletest"
)

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, list bool, rows []tabletest.Row) table.Table {
		var b strings.Builder
		if list {
			b.WriteString("# @list\n")
		}
		for _, r := range rows {
			if list {
				fmt.Fprintln(&b, r.Key)
			} else {
				fmt.Fprintln(&b, r.Key+"\t"+r.Value)
			}
		}
		tab, err := Open(write(t, filepath.Join(t.TempDir(), "table"), b.String()), static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return tab
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		kind       static.Kind
		want       string // key=value, parted by "|"
		err        string // part of the message
	}{
		{name: "nothing", text: "\n# comment\n \t\n", kind: static.Empty},
		{name: "list", text: "  a \r\nb\n#c\nd", kind: static.List, want: "a=|b=|d="},
		{name: "list keeps what follows", text: "a\nb c: d\n", kind: static.List, want: "a=|b c: d="},
		{name: "map", text: "a b\nc:d\ne\tf g \nh: i\n", kind: static.Map, want: "a=b|c=d|e=f g|h=i"},
		{name: "colon behind white space belongs to the value", text: "key : v\n", kind: static.Map, want: "key=: v"},
		{name: "bracketed key", text: "[::1] localhost\n[2001:db8::1]:x\n", kind: static.Map, want: "[::1]=localhost|[2001:db8::1]=x"},
		{name: "bracketed network is a list entry", text: "[2001:db8::]/32\n", kind: static.List, want: "[2001:db8::]/32="},
		{name: "@list", text: "#  @list \na:b\nc d\n", kind: static.List, want: "a:b=|c d="},
		{name: "@list behind the first entry is a comment", text: "a b\n# @list\nc d\n", kind: static.Map, want: "a=b|c=d"},
		{name: "URLs", text: "smtp+tls://a@mx.example.org:587\n[::1]\n", kind: static.List, want: "smtp+tls://a@mx.example.org:587=|[::1]="},
		{name: "URLs as values", text: "example.org smtp://mx:25\na://b:1 c\n", kind: static.Map, want: "example.org=smtp://mx:25|a://b:1=c"},
		{name: "IPv6 list", text: "# @list\n2001:db8::1\n", kind: static.List, want: "2001:db8::1="},
		{name: "no inline comments", text: "a b # c\n", kind: static.Map, want: "a=b # c"},
		{name: "map entry without value", text: "# x\na b\n\nc\n", err: `f:4: invalid map entry: "c" has no value, but the file is a map since line 2`},
		{name: "map entry with an empty value", text: "a b\nc:\n", err: "f:2: invalid map entry"},
		{name: "remedy", text: "a b\nc\n", err: `"# @list"`},
		{name: "no key", text: ": x\n", err: "f:1: no key"},
		{name: "open bracket", text: "[::1 x\n", err: `f:1: "[" without "]"`},
		{name: "NUL", text: "a\x00b\n", err: "f:1: NUL"},
		{name: "long line", text: "a\n" + strings.Repeat("x", MaxLine+1), err: "f:2: line of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			kind, entries, err := Parse("f", tt.text)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Parse(%.40q): %v, want %q", tt.text, err, tt.err)
				}
				return
			}
			var rows []string
			for _, e := range entries {
				rows = append(rows, e.Key+"="+e.Value)
			}
			if got := strings.Join(rows, "|"); err != nil || got != tt.want || kind != tt.kind {
				t.Errorf("Parse(%.40q) = %v, %q, %v, want %v, %q", tt.text, kind, got, err, tt.kind, tt.want)
			}
		})
	}
}

func TestUpdateKeepsOldContentOnError(t *testing.T) {
	t.Parallel()
	path := write(t, filepath.Join(t.TempDir(), "t"), "a 1\n")
	tab, err := Open(path, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(value string) {
		t.Helper()
		if got, err := tab.Lookup(t.Context(), table.Alias, "a"); err != nil || got != value {
			t.Errorf("Lookup = %q, %v, want %q", got, err, value)
		}
	}
	write(t, path, "a 2\nb\n")
	if e, ok := errors.AsType[*Error](tab.Update(t.Context())); !ok || e.Line != 2 {
		t.Errorf("Update: %v, want an error for line 2", e)
	}
	want("1")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := tab.Update(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Update: %v, want that the file is missing", err)
	}
	want("1")
	write(t, path, "a 3\n")
	if err := tab.Update(t.Context()); err != nil {
		t.Error(err)
	}
	want("3")
}

func TestKind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]static.Kind{"": static.Empty, "# @list\n": static.Empty, "a\n": static.List, "a b\n": static.Map} {
		if got, err := Kind(write(t, filepath.Join(dir, "t"), text), false); err != nil || got != want {
			t.Errorf("Kind of %q = %v, %v, want %v", text, got, err, want)
		}
	}
	path := write(t, filepath.Join(dir, "t"), "ok\n\n(\n")
	if _, err := Kind(path, true); err == nil || !strings.HasPrefix(err.Error(), path+":3: ") {
		t.Errorf("Kind with a bad pattern: %v, want an error at line 3", err)
	}
	if _, err := Kind(dir, false); err == nil {
		t.Error("Kind of a directory gave no error")
	}
}

// FuzzFile states that what parses is consistent: lists have no values, maps have
// all, and nothing holds a line break.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"a b\n", "a\nb\n", "# @list\n[::1]\n", "[", "a:b\nc", "[::1]/64 x\n", ":x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		kind, entries, err := Parse("f", text)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.Key == "" || (e.Value == "") != (kind == static.List) || strings.ContainsAny(e.Key+e.Value, "\n\x00") {
				t.Errorf("%v: bad entry %+v", kind, e)
			}
		}
		if kind == static.Empty && len(entries) > 0 {
			t.Errorf("empty file with %d entries", len(entries))
		}
		if _, err := static.New(kind, entries, static.Options{}); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkOpen100k(b *testing.B) {
	var s strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&s, "user%d: alice%d\n", i, i)
	}
	path := write(b, filepath.Join(b.TempDir(), "t"), s.String())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(path, static.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
