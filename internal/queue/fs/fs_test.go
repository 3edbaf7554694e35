package fs

import (
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/codec"
	"github.com/opensmtpd/opensmtpd/internal/queue/queuetest"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

func open(t *testing.T, fsys vfs.FS, o Options) *Store {
	t.Helper()
	s, err := Open(fsys, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, func(t *testing.T) queue.Store { return open(t, vfs.OS(t.TempDir()), Options{SegmentSize: 1 << 20}) })
	})
	t.Run("disk with a small journal", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, func(t *testing.T) queue.Store {
			return open(t, vfs.OS(t.TempDir()), Options{SegmentSize: 16 << 10, Segments: 4})
		})
	})
	for name, c := range map[string]codec.Compression{"encrypted": codec.None, "compressed and encrypted": codec.Zstd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := codec.New(c, []byte("0123456789abcdef0123456789abcdef"))
			if err != nil {
				t.Fatal(err)
			}
			queuetest.Run(t, func(t *testing.T) queue.Store {
				return open(t, vfs.OS(t.TempDir()), Options{SegmentSize: 64 << 10, Segments: 4, Codec: k})
			})
		})
	}
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, func(*testing.T) queue.Store { return open(t, vfs.NewMem(), Options{SegmentSize: 64 << 10}) })
	})
}
