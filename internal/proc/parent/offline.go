package parent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Offline mail: what sendmail left in the spool while the daemon was down. Each
// owner's files are handed, one at a time, to a process that runs as the owner.
const (
	offlineOwners   = 5                // owners served at a time
	offlineBatch    = 4096             // directory entries read at a time
	offlineInterval = 60 * time.Second // between looks at the directory
	offlineTimeout  = 5 * time.Minute  // for one file; then its owner's process is ended
)

// offline looks at the drop directory now and then, until ctx ends.
func (p *Parent) offline(ctx context.Context) {
	dir := filepath.Join(p.Paths.Spool, "offline")
	for {
		for {
			done, err := p.offlinePass(ctx, dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) && ctx.Err() == nil {
				p.Log.Warnf("offline mail: %v", err)
			}
			if done == 0 || err != nil {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(offlineInterval):
		}
	}
}

// offlinePass re-injects a batch of files and tells how many it disposed of.
func (p *Parent) offlinePass(ctx context.Context, dir string) (int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	total := 0
	for ctx.Err() == nil {
		names, err := d.Readdirnames(offlineBatch)
		if errors.Is(err, io.EOF) || len(names) == 0 {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		total += p.offlineNames(ctx, dir, names)
	}
	return total, ctx.Err()
}

// offlineNames serves the owners of a batch of files side by side.
func (p *Parent) offlineNames(ctx context.Context, dir string, names []string) int {
	owners := map[int][]string{}
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue // still being written
		}
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || !fi.Mode().IsRegular() || st.Nlink != 1 {
			p.Log.Warnf("offline mail: %s is not a plain file with one link: left alone", name)
			continue
		}
		owners[int(st.Uid)] = append(owners[int(st.Uid)], name)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	slots := make(chan struct{}, offlineOwners)
	for uid, list := range owners {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			n, err := p.offlineOwner(ctx, uid, dir, list)
			if err != nil && ctx.Err() == nil {
				p.Log.Warnf("offline mail of uid %d: %v", uid, err)
			}
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	wg.Wait()
	return total
}

// inject has one file submitted. A process that does not answer is ended: the
// owner may have stopped it.
func inject(ctx context.Context, w *worker, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, offlineTimeout)
	defer cancel()
	_, _, err := proto.Inject.Call(ctx, w.conn, proto.Empty{}, f)
	if ctx.Err() != nil {
		w.process.Kill()
	}
	return err
}

// offlineOwner re-injects files of one owner with one process.
func (p *Parent) offlineOwner(ctx context.Context, uid int, dir string, names []string) (int, error) {
	w, far, err := p.spawnWorker(ctx, proto.Enqueue, fmt.Sprintf("enqueue uid %d", uid), platform.User{Name: fmt.Sprint(uid), UID: uid, GID: p.SMTPUser.GID, Groups: []int{p.SMTPUser.GID}})
	if err != nil {
		return 0, err
	}
	far.Close()
	defer func() {
		w.conn.Close()
		<-w.ended // so that there are never more processes than slots
	}()
	done := 0
	for _, name := range names {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		fi, err := f.Stat()
		st, ok := fi.Sys().(*syscall.Stat_t)
		if err != nil || !ok || !fi.Mode().IsRegular() || int(st.Uid) != uid || st.Nlink != 1 {
			f.Close()
			continue
		}
		err = inject(ctx, w, f)
		f.Close()
		refused := proto.SMTPError(err)
		switch {
		case err == nil:
		case refused != nil && !refused.Permanent():
			p.Log.Warnf("offline mail %s of uid %d stays for a while: %s", name, uid, refused.Reply())
			continue
		case refused != nil && refused.Permanent():
			p.Log.Warnf("offline mail %s of uid %d refused: %s", name, uid, refused.Reply())
		case refused != nil: // for now; the others need not wait for this one
			p.Log.Warnf("offline mail %s of uid %d refused, next try in %v: %s", name, uid, offlineInterval, refused.Reply())
			continue
		default:
			return done, fmt.Errorf("%s: %w", name, err)
		}
		if err := os.Remove(path); err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}
