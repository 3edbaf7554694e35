package filter_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// bench serves f over pipes of the system and returns the daemon's ends.
func bench(b *testing.B, f *filter.Filter) (r *wire.Reader, w io.Writer) {
	b.Helper()
	toFilter, out, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	in, fromFilter, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Serve(context.Background(), toFilter, fromFilter) }()
	b.Cleanup(func() {
		_ = out.Close()
		if err := <-done; err != nil {
			b.Error(err)
		}
		_, _, _ = in.Close(), toFilter.Close(), fromFilter.Close()
	})
	_, _ = io.WriteString(out, "config|protocol|0.7\nconfig|ready\n")
	for r = wire.NewReader(in); ; {
		line, err := r.Line()
		if err != nil {
			b.Fatal(err)
		}
		if string(line) == "register|ready" {
			return r, out
		}
	}
}

// One question and its answer, nothing else under way.
func BenchmarkVerdict(b *testing.B) {
	f := &filter.Filter{RcptTo: func(*filter.Session, string) filter.Verdict { return filter.Proceed() }}
	r, w := bench(b, f)
	line := wire.AppendRequest(nil, time.Now(), wire.In, wire.PhaseRcptTo, 1, 2, "user@example.org")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.Write(line)
		if _, err := r.Line(); err != nil {
			b.Fatal(err)
		}
	}
}

// Questions of a hundred sessions that are answered while others are asked.
func BenchmarkVerdictsOfManySessions(b *testing.B) {
	f := &filter.Filter{RcptTo: func(*filter.Session, string) filter.Verdict { return filter.Proceed() }}
	r, w := bench(b, f)
	const sessions = 100
	var lines []byte
	for i := range uint64(sessions) {
		lines = wire.AppendRequest(lines, time.Now(), wire.In, wire.PhaseRcptTo, i, 2, "user@example.org")
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.Write(lines)
		for range sessions {
			if _, err := r.Line(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*sessions), "ns/verdict")
}

// A message of 1 MiB, line by line or whole.
func benchmarkMessage(b *testing.B, f *filter.Filter) {
	r, w := bench(b, f)
	const size = 1 << 20
	line := []byte(strings.Repeat("x", 70))
	var lines []byte
	for range size / len(line) {
		lines = wire.AppendDataRequest(lines, time.Now(), wire.In, 1, 2, line)
	}
	lines = wire.AppendDataRequest(lines, time.Now(), wire.In, 1, 2, []byte("."))
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		go func() { _, _ = io.Copy(w, bytes.NewReader(lines)) }()
		for {
			line, err := r.Line()
			if err != nil {
				b.Fatal(err)
			}
			if bytes.HasSuffix(line, []byte("|.")) {
				break
			}
		}
	}
}

func BenchmarkDataLine(b *testing.B) {
	benchmarkMessage(b, &filter.Filter{DataLine: func(_ *filter.Session, line []byte, out *filter.Lines) { out.Line(line) }})
}

func BenchmarkMessage(b *testing.B) {
	benchmarkMessage(b, &filter.Filter{MessageMemory: 4 << 20, Message: func(*filter.Session, *filter.Message) filter.Verdict { return filter.Proceed() }})
}
