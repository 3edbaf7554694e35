package mbox

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opensmtpd/opensmtpd/mda"
)

// BenchmarkDeliver measures synced deliveries of 1 KiB to one mailbox, by five
// goroutines for each processor.
func BenchmarkDeliver(b *testing.B) {
	to := Target{Path: filepath.Join(b.TempDir(), "box"), UID: os.Geteuid()}
	s := New()
	var syncs atomic.Int64
	s.sync = func(f *os.File) error {
		syncs.Add(1)
		return f.Sync()
	}
	body := strings.Repeat("Subject: x\n", 93)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.SetParallelism(5)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r := s.Deliver(b.Context(), to, message(body)); r.Outcome != mda.Delivered {
				b.Error(r)
			}
		}
	})
	b.ReportMetric(float64(syncs.Load())/float64(b.N), "syncs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
