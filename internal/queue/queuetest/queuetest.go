// Package queuetest is what every mail store is held to. A store's test calls Run.
package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Run tests the stores that open makes. Each call of open gives an empty store;
// Run closes it.
func Run(t *testing.T, open func(t *testing.T) queue.Store) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, queue.Store)
	}{
		{"a committed message reads back", committed},
		{"sizes up to the largest inline body", sizes},
		{"a spilled message reads back", spilled},
		{"a body is any bytes", anyBytes},
		{"many recipients", manyRecipients},
		{"updates stay", updates},
		{"the message goes with its last envelope", deletion},
		{"what is not there is not found", missing},
		{"bad messages are refused", refused},
		{"a discarded id is gone", discarded},
		{"ids are not zero and differ", ids},
		{"Walk stops at an error and at a cancelled context", walkStops},
		{"everything at the same time", concurrent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			tt.test(t, s)
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// Envelope returns a valid envelope with the given id.
func Envelope(id envelope.ID) *envelope.Envelope {
	return &envelope.Envelope{
		ID: id, Type: envelope.MTA, Action: "outbound", SMTPName: "mx.example.org", HELO: "client.example.net",
		Hostname: "client.example.net", Source: "192.0.2.7", Sender: smtp.Path{Local: "ann", Domain: "example.net"},
		Rcpt: smtp.Path{Local: "bob", Domain: "example.com"}, Dest: smtp.Path{Local: id.String(), Domain: "example.com"},
		Created: time.Unix(1790000000, 0).UTC(), TTL: 96 * time.Hour,
	}
}

// Message returns a valid message with n envelopes and a body of size bytes.
func Message(id envelope.MsgID, n, size int) queue.Message {
	m := queue.Message{ID: id, Body: Text(id, size)}
	for i := range n {
		m.Envelopes = append(m.Envelopes, Envelope(envelope.NewID(id, uint32(i+1))))
	}
	return m
}

// Text returns a body of size bytes that differs from message to message.
func Text(id envelope.MsgID, size int) []byte {
	line := fmt.Appendf(nil, "Subject: message %v of this test\n", id)
	return bytes.Repeat(line, size/len(line)+1)[:size]
}

func newID(t *testing.T, s queue.Store) envelope.MsgID {
	t.Helper()
	id, err := s.NewID(t.Context())
	if err != nil {
		t.Fatalf("NewID: %v", err)
	}
	return id
}

func commit(t *testing.T, s queue.Store, n, size int) queue.Message {
	t.Helper()
	m := Message(newID(t, s), n, size)
	if err := s.Commit(t.Context(), m); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return m
}

// Contents returns all envelopes, through Walk. Damage fails the test.
func Contents(t *testing.T, s queue.Store) map[envelope.ID]*envelope.Envelope {
	t.Helper()
	all := map[envelope.ID]*envelope.Envelope{}
	err := s.Walk(t.Context(), func(e *envelope.Envelope, err error) error {
		if err != nil {
			t.Errorf("Walk met damage: %v", err)
			return nil
		}
		if all[e.ID] != nil {
			t.Errorf("Walk gave %v twice", e.ID)
		}
		all[e.ID] = e
		return nil
	})
	if err != nil {
		t.Errorf("Walk: %v", err)
	}
	return all
}

// Read returns the body of a message, by Reader and, where there is one, by the
// descriptor itself.
func Read(ctx context.Context, s queue.Store, id envelope.MsgID) ([]byte, error) {
	b, err := s.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	text, err := io.ReadAll(b.Reader())
	if err == nil && int64(len(text)) != b.Size {
		err = fmt.Errorf("%d bytes, Size says %d", len(text), b.Size)
	}
	if err == nil && b.File != nil {
		direct, derr := io.ReadAll(b.File)
		if derr != nil || !bytes.Equal(direct, text) {
			err = fmt.Errorf("descriptor reads %d bytes (%v), Reader %d", len(direct), derr, len(text))
		}
	}
	return text, err
}

// check compares a message with what is stored of it.
func check(t *testing.T, s queue.Store, m queue.Message, body []byte) {
	t.Helper()
	got, err := Read(t.Context(), s, m.ID)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("body of %v: %d bytes, %v; want %d", m.ID, len(got), err, len(body))
	}
	for _, want := range m.Envelopes {
		e, err := s.Load(t.Context(), want.ID)
		if err != nil || !reflect.DeepEqual(e, want) {
			t.Errorf("Load: got %+v, %v\nwant %+v", e, err, want)
		}
	}
}

func committed(t *testing.T, s queue.Store) {
	if got := Contents(t, s); len(got) != 0 {
		t.Fatalf("a new store holds %v", got)
	}
	a, b := commit(t, s, 1, 1000), commit(t, s, 3, 0)
	check(t, s, a, a.Body)
	check(t, s, b, nil)
	all := Contents(t, s)
	for _, e := range append(a.Envelopes, b.Envelopes...) {
		if !reflect.DeepEqual(all[e.ID], e) {
			t.Errorf("Walk gave %+v, want %+v", all[e.ID], e)
		}
	}
	if len(all) != 4 {
		t.Errorf("Walk gave %d envelopes, want 4", len(all))
	}
}

func sizes(t *testing.T, s queue.Store) {
	for _, size := range []int{1, 511, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, queue.InlineMax} {
		m := commit(t, s, 1, size)
		check(t, s, m, m.Body)
	}
}

func spilled(t *testing.T, s queue.Store) {
	for _, size := range []int{0, 10, 128 << 10, queue.InlineMax + 1, 1 << 20} {
		m := Message(newID(t, s), 2, 0)
		m.Body, m.Spilled = nil, true
		f, err := s.Spill(t.Context(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		text := Text(m.ID, size)
		if _, err := f.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(t.Context(), m); err != nil {
			t.Fatalf("Commit of %d spilled bytes: %v", size, err)
		}
		check(t, s, m, text)
		for _, e := range m.Envelopes {
			if err := s.Delete(t.Context(), e.ID); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
		if _, err := s.Open(t.Context(), m.ID); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("after the deletion of all: %v", err)
		}
	}
}

func anyBytes(t *testing.T, s queue.Store) {
	for _, head := range []string{"\x01", "\x02", "\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "\x00\xff\r\n", "=record= ", "message 00000001 envelopes"} {
		m := Message(newID(t, s), 1, 0)
		m.Body = []byte(head + " and more\n")
		if err := s.Commit(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		check(t, s, m, m.Body)
		big := Message(newID(t, s), 1, 0)
		big.Body, big.Spilled = nil, true
		f, err := s.Spill(t.Context(), big.ID)
		if err != nil {
			t.Fatal(err)
		}
		text := append([]byte(head), Text(big.ID, queue.InlineMax)...)
		_, err = f.Write(text)
		if err := errors.Join(err, f.Close(), s.Commit(t.Context(), big)); err != nil {
			t.Fatal(err)
		}
		check(t, s, big, text)
	}
}

func manyRecipients(t *testing.T, s queue.Store) {
	m := commit(t, s, 150, 100)
	check(t, s, m, m.Body)
	for i, e := range m.Envelopes {
		if i%3 == 0 {
			e.Retry++
			if err := s.Update(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(t, s, m, m.Body)
	if got := len(Contents(t, s)); got != 150 {
		t.Errorf("%d envelopes, want 150", got)
	}
}

func updates(t *testing.T, s queue.Store) {
	m := commit(t, s, 2, 100)
	for retry := range uint32(3) {
		e := m.Envelopes[1]
		e.Retry = retry
		e.Status = smtp.EnhancedCode{4, 4, 1}
		e.LastTry = time.Unix(1790000100, 0).UTC()
		e.NextTry = time.Unix(1790000500, 0).UTC()
		e.ErrorLine = "451 later"
		e.Held = "limit of example.com"
		if err := s.Update(t.Context(), e); err != nil {
			t.Fatalf("Update: %v", err)
		}
		check(t, s, m, m.Body)
		if got := Contents(t, s); len(got) != 2 || !reflect.DeepEqual(got[e.ID], e) {
			t.Errorf("Walk gave %+v, want %+v", got, e)
		}
	}
	m.Envelopes[0].ErrorLine = "two\nlines"
	if err := s.Update(t.Context(), m.Envelopes[0]); err == nil {
		t.Error("an update with a line break was stored")
	}
}

func deletion(t *testing.T, s queue.Store) {
	a, b := commit(t, s, 3, 100), commit(t, s, 3, 100)
	b.Envelopes[1].Retry = 1
	if err := s.Update(t.Context(), b.Envelopes[1]); err != nil {
		t.Fatal(err)
	}
	for _, m := range []queue.Message{a, b} {
		for i, e := range m.Envelopes {
			check(t, s, queue.Message{ID: m.ID, Envelopes: m.Envelopes[i:]}, m.Body)
			if err := s.Delete(t.Context(), e.ID); err != nil {
				t.Errorf("Delete: %v", err)
			}
			if err := s.Delete(t.Context(), e.ID); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("second Delete: %v", err)
			}
			if _, err := s.Load(t.Context(), e.ID); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("Load after Delete: %v", err)
			}
			if err := s.Update(t.Context(), e); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("Update after Delete: %v", err)
			}
		}
		if _, err := s.Open(t.Context(), m.ID); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("Open after the last Delete: %v", err)
		}
	}
	if got := Contents(t, s); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func missing(t *testing.T, s queue.Store) {
	id := newID(t, s)
	e := Envelope(envelope.NewID(id, 1))
	_, openErr := s.Open(t.Context(), id)
	_, loadErr := s.Load(t.Context(), e.ID)
	for name, err := range map[string]error{
		"Open": openErr, "Load": loadErr, "Update": s.Update(t.Context(), e), "Delete": s.Delete(t.Context(), e.ID),
	} {
		if !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("%s of a reserved id: %v", name, err)
		}
	}
}

func refused(t *testing.T, s queue.Store) {
	for _, tt := range []struct {
		name  string
		spoil func(*queue.Message)
	}{
		{"no envelopes", func(m *queue.Message) { m.Envelopes = nil }},
		{"no id", func(m *queue.Message) { m.ID = 0 }},
		{"envelope of another message", func(m *queue.Message) { m.Envelopes[0].ID ^= 1 << 40 }},
		{"envelope number zero", func(m *queue.Message) { m.Envelopes[0].ID = envelope.NewID(m.ID, 0) }},
		{"same envelope twice", func(m *queue.Message) { m.Envelopes = append(m.Envelopes, m.Envelopes[0]) }},
		{"line break in a string", func(m *queue.Message) { m.Envelopes[0].HELO = "a\nmda-exec: |sh" }},
		{"body too large for memory", func(m *queue.Message) { m.Body = make([]byte, queue.InlineMax+1) }},
		{"spilled without a file", func(m *queue.Message) { m.Spilled, m.Body = true, nil }},
	} {
		m := Message(newID(t, s), 1, 10)
		tt.spoil(&m)
		if err := s.Commit(t.Context(), m); err == nil {
			t.Errorf("%s: committed", tt.name)
		}
		s.Discard(m.ID)
	}
	if got := Contents(t, s); len(got) != 0 {
		t.Errorf("refused messages left %v", got)
	}
}

func discarded(t *testing.T, s queue.Store) {
	id := newID(t, s)
	f, err := s.Spill(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Spill(t.Context(), id); err == nil {
		t.Error("a second file for the same message")
	}
	s.Discard(id)
	s.Discard(id)
	if _, err := s.Spill(t.Context(), id); err == nil {
		t.Error("a file for a discarded id")
	}
	m := commit(t, s, 1, 10)
	s.Discard(m.ID)
	check(t, s, m, m.Body)
}

func ids(t *testing.T, s queue.Store) {
	seen := map[envelope.MsgID]bool{}
	for range 500 {
		id := newID(t, s)
		if id == 0 || seen[id] {
			t.Fatalf("id %v is zero or was given before", id)
		}
		seen[id] = true
	}
}

func walkStops(t *testing.T, s queue.Store) {
	commit(t, s, 1, 10)
	commit(t, s, 1, 10)
	stop := errors.New("stop")
	n := 0
	err := s.Walk(t.Context(), func(*envelope.Envelope, error) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("Walk gave %v after %d envelopes", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Walk(ctx, func(*envelope.Envelope, error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Walk with a cancelled context: %v", err)
	}
}

// concurrent has many clients commit, update and delete, and others walk.
func concurrent(t *testing.T, s queue.Store) {
	const clients, each = 16, 12
	var mu sync.Mutex
	left := map[envelope.ID]*envelope.Envelope{}
	bodies := map[envelope.MsgID][]byte{}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				m := commit(t, s, 1+i%3, 100*i+c)
				for k, e := range m.Envelopes {
					if (i+k)%2 == 0 {
						e.Retry = uint32(i + 1)
						if err := s.Update(t.Context(), e); err != nil {
							t.Errorf("Update: %v", err)
						}
					}
					if (i+k)%4 == 0 {
						if err := s.Delete(t.Context(), e.ID); err != nil {
							t.Errorf("Delete: %v", err)
						}
						continue
					}
					mu.Lock()
					left[e.ID] = e
					bodies[m.ID] = m.Body
					mu.Unlock()
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 5 {
				err := s.Walk(t.Context(), func(e *envelope.Envelope, err error) error {
					if err != nil {
						return err
					}
					if _, err := s.Open(t.Context(), e.ID.MsgID()); err != nil && !errors.Is(err, queue.ErrNotFound) {
						return err
					}
					return nil
				})
				if err != nil {
					t.Errorf("Walk: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := Contents(t, s); !reflect.DeepEqual(got, left) {
		t.Errorf("%d envelopes left, want %d", len(got), len(left))
	}
	for id, body := range bodies {
		check(t, s, queue.Message{ID: id}, body)
	}
}
