package wire_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// seeds adds the lines of a recorded session that begin with prefix.
func seeds(f *testing.F, prefix string) {
	data, err := os.ReadFile("testdata/session.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), prefix); ok {
			f.Add([]byte(rest))
		}
	}
}

// What parses is written as one line, and that line parses and is written the same.
func stable(t *testing.T, line []byte, rewrite func([]byte) ([]byte, error)) {
	if bytes.IndexByte(line, '\n') >= 0 {
		return
	}
	first, err := rewrite(line)
	if err != nil {
		return
	}
	if bytes.Count(first, []byte("\n")) != 1 || first[len(first)-1] != '\n' {
		t.Fatalf("%q is written as %q", line, first)
	}
	second, err := rewrite(first[:len(first)-1])
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("%q is written as %q, then as %q, %v", line, first, second, err)
	}
}

func FuzzToFilter(f *testing.F) {
	seeds(f, "<< ")
	f.Add([]byte("dns|1|2|value|a%0Ab"))
	f.Add([]byte("report|0.5|1.1|smtp-out|tx-mail|1|2|a|ok"))
	f.Fuzz(func(t *testing.T, line []byte) { stable(t, line, rewriteToFilter) })
}

func FuzzToDaemon(f *testing.F) {
	seeds(f, ">> ")
	f.Add([]byte("report|1.5|smtp-in|1|x"))
	f.Add([]byte("dns|1|2|txt|a"))
	f.Add([]byte("dns|1|2|cancel"))
	f.Fuzz(func(t *testing.T, line []byte) { stable(t, line, rewriteToDaemon) })
}

// However input is cut into reads, the lines are the same.
func FuzzReader(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 1)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if len(in) > wire.MaxLine {
			return
		}
		r := wire.NewReader(&chunks{in, max(size%len(append(in, 0)), 1)})
		var got []byte
		for {
			line, err := r.Line()
			if err != nil {
				break
			}
			got = append(append(got, line...), '\n')
		}
		if want := in[:bytes.LastIndexByte(in, '\n')+1]; !bytes.Equal(got, want) {
			t.Fatalf("got %q of %q", got, want)
		}
	})
}
