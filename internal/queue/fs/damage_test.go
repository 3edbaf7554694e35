package fs

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/codec"
	"github.com/opensmtpd/opensmtpd/internal/queue/queuetest"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// walk returns the envelopes and the damage that Walk tells.
func walk(t *testing.T, s *Store) (ids []envelope.ID, damage []error) {
	t.Helper()
	err := s.Walk(t.Context(), func(e *envelope.Envelope, err error) error {
		switch {
		case err == nil:
			ids = append(ids, e.ID)
		case e != nil || !errors.Is(err, queue.ErrCorrupt):
			t.Errorf("Walk gave %v with the error %v", e, err)
		default:
			damage = append(damage, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	slices.Sort(ids)
	return ids, damage
}

func commit(t *testing.T, s *Store, n, size int) queue.Message {
	t.Helper()
	id, err := s.NewID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := queuetest.Message(id, n, size)
	if err := s.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// put writes a file as an editor, or a failing disk, would.
func put(t *testing.T, fsys vfs.FS, name string, b []byte, off int64) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func segment1(t *testing.T, fsys vfs.FS) []byte {
	t.Helper()
	f, err := fsys.OpenFile("journal/0001", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := readAll(f, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDamagedRecordIsSetAsideAndTheRestKept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		which int // message that is hit
	}{{"the first", 0}, {"in the middle", 1}, {"the last", 2}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			disk := vfs.NewMem()
			s := open(t, disk, crashOptions)
			var want []envelope.ID
			var hit queue.Message
			for i := range 3 {
				m := commit(t, s, 1, 500)
				if i == tt.which {
					hit = m
				} else {
					want = append(want, m.Envelopes[0].ID)
				}
			}
			slices.Sort(want)
			closeStore(t, s)
			at := bytes.Index(segment1(t, disk), hit.Body[:40])
			put(t, disk, "journal/0001", []byte("#damage#"), int64(at+10))

			for _, when := range []string{"opened", "opened again"} {
				s = open(t, disk, crashOptions)
				ids, damage := walk(t, s)
				if !slices.Equal(ids, want) {
					t.Errorf("%s: envelopes %v, want %v", when, ids, want)
				}
				list, err := s.Corrupt()
				if err != nil || len(list) != 1 {
					t.Fatalf("%s: set aside %v, %v", when, list, err)
				}
				if when == "opened" && (len(damage) != 1 || !strings.Contains(damage[0].Error(), list[0])) {
					t.Errorf("damage %v does not name %v", damage, list)
				}
				if when == "opened again" && len(damage) != 0 {
					t.Errorf("told again: %v", damage)
				}
				kept, err := s.readFile(list[0], 1<<20)
				if err != nil || !bytes.Contains(kept, []byte("#damage#")) || !bytes.Contains(kept, []byte("envelope "+hit.Envelopes[0].ID.String())) {
					t.Errorf("%s: set aside %q, %v", when, kept, err)
				}
				commit(t, s, 1, 10) // makes the new segment, which knows of the gap
				want, _ = walk(t, s)
				closeStore(t, s)
			}
		})
	}
}

func TestDamageWhileRunningIsAnErrorNotAWrongBody(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	s := open(t, disk, crashOptions)
	m := commit(t, s, 1, 500)
	put(t, disk, "journal/0001", []byte("x"), int64(bytes.Index(segment1(t, disk), m.Body)+100))
	if _, err := s.Open(t.Context(), m.ID); !errors.Is(err, queue.ErrCorrupt) {
		t.Errorf("Open: %v", err)
	}
	if ids, damage := walk(t, s); len(ids) != 0 || len(damage) != 1 {
		t.Errorf("Walk gave %v and %v", ids, damage)
	}
	closeStore(t, s)
}

func TestTornTailIsNoDamage(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	s := open(t, disk, crashOptions)
	m := commit(t, s, 1, 500)
	left := disk.Crash(vfs.KeepAll) // before Close says that all is synced
	closeStore(t, s)
	b := segment1(t, left)
	put(t, left, "journal/0001", []byte(magic+"00000001 0000000000000009 00000000"), int64(bytes.Index(b, m.Body)+501))
	for range 2 {
		s = open(t, left, crashOptions)
		ids, damage := walk(t, s)
		if len(ids) != 1 || len(damage) != 0 {
			t.Errorf("Walk gave %v and %v", ids, damage)
		}
		closeStore(t, s)
	}
}

func TestForgedRecordInAMessageStaysText(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	s := open(t, disk, crashOptions)
	evil := queuetest.Message(0x66666666, 1, 10)
	evil.Envelopes[0].Exec = "|sh"
	p, err := s.messagePayload(nil, &evil)
	if err != nil {
		t.Fatal(err)
	}
	forged := appendRecord(nil, &record{gen: 1, seq: 3, batch: 3, kind: kindMessage, payload: p}, crcOf(p))

	m := commit(t, s, 1, 10)
	id, err := s.NewID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	carrier := queuetest.Message(id, 1, 0)
	carrier.Body = append([]byte("Subject: x\n\n"), forged...)
	if err := s.Commit(t.Context(), carrier); err != nil {
		t.Fatal(err)
	}
	if body, err := queuetest.Read(t.Context(), s, id); err != nil || !bytes.Equal(body, carrier.Body) {
		t.Errorf("body %q, %v", body, err)
	}
	if n := bytes.Count(segment1(t, disk), []byte("|sh")); n != 0 {
		t.Error("the forged record is in the journal")
	}
	closeStore(t, s)
	s = open(t, disk, crashOptions)
	want := []envelope.ID{m.Envelopes[0].ID, carrier.Envelopes[0].ID}
	slices.Sort(want)
	if ids, _ := walk(t, s); !slices.Equal(ids, want) {
		t.Errorf("envelopes %v, want %v", ids, want)
	}
	closeStore(t, s)
}

func TestDamageInDirectoriesIsSetAside(t *testing.T) {
	t.Parallel()
	const dir = "queue/1a/1a2b3c4d"
	good, err := queuetest.Envelope(0x1a2b3c4d00000001).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		aside []string
		left  int
	}{
		{"one bad envelope of two", map[string]string{"message": "x\n", "1a2b3c4d00000001": string(good), "1a2b3c4d00000002": "version: 9\n"},
			[]string{"corrupt/1a2b3c4d/1a2b3c4d00000002", "corrupt/1a2b3c4d/message"}, 1},
		{"a single bad envelope", map[string]string{"message": "x\n", "1a2b3c4d00000001": ""},
			[]string{"corrupt/1a2b3c4d/1a2b3c4d00000001", "corrupt/1a2b3c4d/message"}, 0},
		{"zeros, as a cut leaves that nobody synced against", map[string]string{"message": "x\n", "1a2b3c4d00000001": strings.Repeat("\x00", 300)},
			[]string{"corrupt/1a2b3c4d/1a2b3c4d00000001", "corrupt/1a2b3c4d/message"}, 0},
		{"too large", map[string]string{"message": "x\n", "1a2b3c4d00000001": strings.Repeat("x", 1<<20)},
			[]string{"corrupt/1a2b3c4d/1a2b3c4d00000001", "corrupt/1a2b3c4d/message"}, 0},
		{"no body", map[string]string{"1a2b3c4d00000001": string(good)}, []string{"corrupt/1a2b3c4d/1a2b3c4d00000001"}, 0},
		{"no envelopes", map[string]string{"message": "x\n"}, []string{"corrupt/1a2b3c4d/message"}, 0},
		{"empty", nil, nil, 0},
		{"an editor's backup", map[string]string{"message": "x\n", "1a2b3c4d00000001": string(good), "1a2b3c4d00000001~": "x"}, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			disk := vfs.NewMem()
			s := open(t, disk, crashOptions)
			if err := vfs.MkdirAll(disk, dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, text := range tt.files {
				put(t, disk, dir+"/"+name, []byte(text), 0)
			}
			ids, damage := walk(t, s)
			if len(ids) != tt.left || (len(damage) > 0) != (len(tt.aside) > 0) {
				t.Errorf("Walk gave %v and %v", ids, damage)
			}
			list, err := s.Corrupt()
			slices.Sort(list)
			if err != nil || !slices.Equal(list, tt.aside) {
				t.Errorf("set aside %v, %v; want %v", list, err, tt.aside)
			}
			if ids, damage := walk(t, s); len(ids) != tt.left || len(damage) != 0 {
				t.Errorf("the second Walk gave %v and %v", ids, damage)
			}
			closeStore(t, s)
		})
	}
}

func TestSpoolOfOpenSMTPD7IsReadAndChanged(t *testing.T) {
	t.Parallel()
	const text = "version: 3\ndispatcher: outbound\ntype: mta\nsmtpname: mx.example.org\nhelo: localhost\n" +
		"hostname: localhost\nerrorline: 421 later\nsockaddr: local\nsender: ann@example.org\nrcpt: bob@example.com\n" +
		"dest: bob@example.com\nctime: 1700000000\nlast-try: 1700000000\nttl: 0\nretry: 1\nflags: authenticated\n"
	const id = envelope.ID(0x1a2b3c4d5e6f7081)
	disk := vfs.OS(t.TempDir())
	if err := vfs.MkdirAll(disk, "queue/1a/1a2b3c4d", 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, disk, "queue/1a/1a2b3c4d/message", []byte("Subject: old\n\ntext\n"), 0)
	put(t, disk, "queue/1a/1a2b3c4d/1a2b3c4d5e6f7081", []byte(text), 0)
	s := open(t, disk, crashOptions)
	e, err := s.Load(t.Context(), id)
	if err != nil || e.Dest.String() != "bob@example.com" || e.TTL != 0 || e.Retry != 1 {
		t.Fatalf("got %+v, %v", e, err)
	}
	e.Retry++
	if err := s.Update(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if e, err = s.Load(t.Context(), id); err != nil || e.Retry != 2 {
		t.Errorf("after Update: %+v, %v", e, err)
	}
	if body, err := queuetest.Read(t.Context(), s, id.MsgID()); err != nil || string(body) != "Subject: old\n\ntext\n" {
		t.Errorf("body %q, %v", body, err)
	}
	if err := s.Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
	if ids, damage := walk(t, s); len(ids)+len(damage) != 0 {
		t.Errorf("left %v and %v", ids, damage)
	}
	closeStore(t, s)
}

func TestMissingKeyLeavesTheQueueInPlace(t *testing.T) {
	t.Parallel()
	k, err := codec.New(codec.Gzip, []byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	o := crashOptions
	o.Codec = k
	disk := vfs.NewMem()
	s := open(t, disk, o)
	a, b := commit(t, s, 1, 100), commit(t, s, 1, 100)
	if err := s.Update(t.Context(), b.Envelopes[0]); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	s = open(t, disk, crashOptions)
	if ids, damage := walk(t, s); len(ids) != 0 || len(damage) != 2 {
		t.Errorf("without the key: %v and %v", ids, damage)
	}
	if _, err := s.Open(t.Context(), a.ID); !errors.Is(err, codec.ErrNoKey) {
		t.Errorf("Open without the key: %v", err)
	}
	if list, err := s.Corrupt(); err != nil || len(list) != 0 {
		t.Errorf("set aside %v, %v", list, err)
	}
	plain := commit(t, s, 1, 100)
	closeStore(t, s)

	s = open(t, disk, o)
	for _, m := range []queue.Message{a, b, plain} {
		if body, err := queuetest.Read(t.Context(), s, m.ID); err != nil || !bytes.Equal(body, m.Body) {
			t.Errorf("with the key: body %q, %v", body, err)
		}
	}
	if got := queuetest.Contents(t, s); len(got) != 3 {
		t.Errorf("with the key: %d envelopes, want 3", len(got))
	}
	closeStore(t, s)
}

func TestReserveOfFreeSpaceIsKept(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		space, inodes float64
		refused       bool
	}{
		{"enough", 0.5, 0.5, false},
		{"little space", 0.04, 0.5, true},
		{"few inodes", 0.5, 0.04, true},
	} {
		o := crashOptions
		o.MinFreeSpace, o.MinFreeInodes = 0.05, 0.05
		o.Free = func() (float64, float64, error) { return tt.space, tt.inodes, nil }
		s := open(t, vfs.NewMem(), o)
		_, err := s.NewID(t.Context())
		if errors.Is(err, queue.ErrNoSpace) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
		err = s.Commit(t.Context(), queuetest.Message(5, 1, 10))
		if errors.Is(err, queue.ErrNoSpace) != tt.refused {
			t.Errorf("%s: Commit: %v", tt.name, err)
		}
		closeStore(t, s)
	}
}

// TestJournalStaysBounded commits far more than the journal holds, and deletes
// nothing: the rest must be in the directories.
func TestJournalStaysBounded(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	s := open(t, disk, crashOptions)
	for range 100 {
		commit(t, s, 1, 900)
	}
	list, err := disk.ReadDir("journal")
	if most := crashOptions.Segments + extraSegments; err != nil || len(list) > most {
		t.Errorf("%d segments, want at most %d; %v", len(list), most, err)
	}
	if got := len(queuetest.Contents(t, s)); got != 100 {
		t.Errorf("%d envelopes, want 100", got)
	}
	closeStore(t, s)
	s = open(t, disk.Crash(vfs.KeepNone), crashOptions)
	if got := len(queuetest.Contents(t, s)); got != 100 {
		t.Errorf("%d envelopes after opening, want 100", got)
	}
	closeStore(t, s)
}

// FuzzJournal: whatever the bytes of a segment, opening neither fails nor panics,
// what it finds can be walked and read or is told to be damaged, and opening
// again finds the same.
func FuzzJournal(f *testing.F) {
	disk := vfs.NewMem()
	s, err := Open(disk, crashOptions)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 4 {
		m := queuetest.Message(envelope.MsgID(i+1), 2, 300)
		if err := s.Commit(f.Context(), m); err != nil {
			f.Fatal(err)
		}
		if err := s.Delete(f.Context(), m.Envelopes[0].ID); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Update(f.Context(), queuetest.Envelope(envelope.NewID(2, 2))); err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := disk.OpenFile("journal/0001", os.O_RDONLY, 0)
	if err != nil {
		f.Fatal(err)
	}
	b, err := readAll(file, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add(bytes.Replace(b, []byte("Subject"), []byte("subject"), 1))
	f.Add(bytes.Repeat([]byte(magic), 100))
	for _, r := range []record{
		{gen: 1, seq: 0, batch: 1 << 63, kind: kindOldest, payload: []byte("ffffffff\n")},
		{gen: 1<<32 - 1, seq: 1<<64 - 1, batch: 1<<64 - 1, kind: kindMoved, payload: []byte("00000001\n")},
		{gen: 1, seq: 9, batch: 9, kind: kindInvalid, payload: []byte("0 ffffffffffffffff\n")},
	} {
		f.Add(append(bytes.Clone(b[:2000]), sealed(r)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := vfs.NewMem()
		if err := disk.Mkdir("journal", 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, disk, "journal/0001", b, 0)
		var first []envelope.ID
		for i := range 2 {
			s, err := Open(disk, crashOptions)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			ids, _ := walk(t, s)
			for _, id := range ids {
				if _, err := queuetest.Read(t.Context(), s, id.MsgID()); err != nil {
					t.Errorf("%v: %v", id, err)
				}
			}
			if i == 1 && !slices.Equal(ids, first) {
				t.Errorf("opened again: %v, want %v", ids, first)
			}
			first = ids
			closeStore(t, s)
		}
	})
}

// sealed returns a record with a valid checksum.
func sealed(r record) []byte {
	return appendRecord(nil, &r, crcOf(r.payload))
}
