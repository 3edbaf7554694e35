package fs

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue/queuetest"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// countedFS counts the syncs of segment files.
type countedFS struct {
	vfs.FS
	syncs *atomic.Int64
}

type countedFile struct {
	vfs.File
	syncs *atomic.Int64
}

func (c countedFS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := c.FS.OpenFile(name, flag, perm)
	if err == nil && strings.HasPrefix(name, "journal/") {
		f = countedFile{f, c.syncs}
	}
	return f, err
}

func (c countedFile) SyncData() error {
	c.syncs.Add(1)
	return c.File.SyncData()
}

// BenchmarkCommit is accept to durable: a 1 KiB message of one recipient, from n
// committers at a time, deleted afterwards as by a first attempt that succeeds.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("committers=%d", n), func(b *testing.B) {
			var syncs atomic.Int64
			s, err := Open(countedFS{vfs.OS(b.TempDir()), &syncs}, Options{})
			if err != nil {
				b.Fatal(err)
			}
			// The messages are made beforehand: the id is not part of what is measured.
			body := queuetest.Text(1, 1024)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range n {
				wg.Go(func() {
					e := queuetest.Envelope(1)
					m := queuetest.Message(1, 1, 0)
					m.Body = body
					m.Envelopes[0] = e
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						m.ID = envelope.MsgID(i)
						e.ID = envelope.NewID(m.ID, 1)
						if err := s.Commit(b.Context(), m); err != nil {
							b.Error(err)
							return
						}
						if err := s.Delete(b.Context(), e.ID); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(syncs.Load())/float64(b.N), "syncs/message")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkUpdate is a failed first attempt, which moves the message to the directories.
func BenchmarkUpdate(b *testing.B) {
	s, err := Open(vfs.OS(b.TempDir()), Options{})
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Uint32
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := queuetest.Message(envelope.MsgID(next.Add(1)*2654435761), 1, 1024)
			if err := s.Commit(b.Context(), m); err != nil {
				b.Fatal(err)
			}
			m.Envelopes[0].Retry = 1
			if err := s.Update(b.Context(), m.Envelopes[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAppendRecord is the work of one commit under the journal's lock.
func BenchmarkAppendRecord(b *testing.B) {
	payload := queuetest.Text(1, 1400)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		appendRecord(buf, &record{gen: 1, seq: 2, batch: 2, kind: kindMessage, payload: payload}, 0)
	}
}
