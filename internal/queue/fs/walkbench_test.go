package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue/queuetest"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// BenchmarkWalk is a start with 5,000 messages in the directories.
func BenchmarkWalk(b *testing.B) {
	const messages = 5000
	dir := b.TempDir()
	for i := range uint32(messages) {
		m := queuetest.Message(envelope.MsgID((i+1)*2654435761), 1, 1024)
		d := filepath.Join(dir, messageDir(m.ID))
		if err := os.MkdirAll(d, 0o700); err != nil {
			b.Fatal(err)
		}
		text, err := m.Envelopes[0].Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		for name, content := range map[string][]byte{"message": m.Body, m.Envelopes[0].ID.String(): text} {
			if err := os.WriteFile(filepath.Join(d, name), content, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	s, err := Open(vfs.OS(dir), Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		err := s.Walk(b.Context(), func(_ *envelope.Envelope, err error) error { n++; return err })
		if err != nil || n != messages {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/messages, "µs/message")
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
