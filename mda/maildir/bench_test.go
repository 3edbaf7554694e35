package maildir

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// message returns a delivery of body from bob to alice.
func message(body string) *mda.Delivery {
	d := &mda.Delivery{
		Sender: smtp.Path{Local: "bob", Domain: "example.com"},
		Rcpt:   smtp.Path{Local: "alice", Domain: "example.org"},
		User:   "alice",
		Body:   strings.NewReader(body),
		Size:   int64(len(body)),
	}
	d.Prefix = d.Headers()
	return d
}

// BenchmarkDeliver measures synced deliveries of 1 KiB to one Maildir, by five
// goroutines for each processor.
func BenchmarkDeliver(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "Maildir")
	s := New("localhost")
	defer s.Close()
	var dirSyncs atomic.Int64
	s.files.syncDir = func(f *os.File) error {
		dirSyncs.Add(1)
		return f.Sync()
	}
	body := []byte(strings.Repeat("Subject: x\n", 93))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.SetParallelism(5)
	b.RunParallel(func(pb *testing.PB) {
		d := message("")
		for pb.Next() {
			d.Body, d.Size = bytes.NewReader(body), int64(len(body))
			if r := s.Deliver(b.Context(), Target{Dir: dir}, d); r.Outcome != mda.Delivered {
				b.Error(r)
			}
		}
	})
	b.ReportMetric(1+float64(dirSyncs.Load())/float64(b.N), "syncs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
