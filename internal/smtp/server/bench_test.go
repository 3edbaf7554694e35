package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/report"
)

// noEvents drops what is reported.
type noEvents struct{}

func (noEvents) Report(report.Event) {}

// benchmarkAccept sends messages of 1 KiB over a loopback connection to a backend
// that keeps nothing. Each step is one write, answered by as many lines as told.
func benchmarkAccept(b *testing.B, cfg Config, size int64, steps []string, replies []int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	cfg.Name, cfg.Events, cfg.MaxMails = "mx.test", noEvents{}, 1<<30
	cfg.Backend = func(*Session) Backend { return nullBackend{} }
	s := New(Limits{})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, ln, Options{Config: func() (*Config, func()) { return &cfg, nil }}) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 4096)
	expect := func(lines int) {
		for lines > 0 {
			n, err := conn.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			lines -= bytes.Count(buf[:n], []byte("\n"))
		}
	}
	expect(1)
	_, _ = io.WriteString(conn, "HELO x\r\n")
	expect(1)
	b.ReportAllocs()
	b.SetBytes(size)
	for b.Loop() {
		for i, step := range steps {
			if _, err := io.WriteString(conn, step); err != nil {
				b.Fatal(err)
			}
			expect(replies[i])
		}
	}
	b.StopTimer()
	_ = conn.Close()
	cancel()
	if err := <-served; err != nil {
		b.Fatal(err)
	}
	_ = s.Drain(ctx)
}

// kibibyte is a message of 1 KiB with its end.
var kibibyte = "From: a@b.test\r\nTo: c@d.test\r\nSubject: benchmark\r\n\r\n" +
	strings.Repeat(strings.Repeat("x", 62)+"\r\n", 15) + ".\r\n"

func BenchmarkAccept(b *testing.B) {
	benchmarkAccept(b, Config{}, 1024, []string{"MAIL FROM:<a@b.test>\r\n", "RCPT TO:<c@d.test>\r\n", "DATA\r\n", kibibyte}, []int{1, 1, 1, 1})
}

func BenchmarkAcceptPipelined(b *testing.B) {
	benchmarkAccept(b, Config{}, 1024, []string{"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n", kibibyte}, []int{3, 1})
}

func BenchmarkAcceptSubmission(b *testing.B) {
	benchmarkAccept(b, Config{Submission: true}, 1024, []string{"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n", kibibyte}, []int{3, 1})
}

func BenchmarkRcptPipelined(b *testing.B) {
	const n = 500
	benchmarkAccept(b, Config{}, n, []string{"MAIL FROM:<a@b.test>\r\n" + strings.Repeat("RCPT TO:<c@d.test>\r\n", n) + "RSET\r\n"}, []int{n + 2})
}

func BenchmarkText(b *testing.B) {
	text := []byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 1000))
	var r textReader
	var out []byte
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		out, _, _ = r.read(out[:0], text)
	}
}
