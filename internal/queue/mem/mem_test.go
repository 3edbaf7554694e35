package mem

import (
	"errors"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/queuetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(*testing.T) queue.Store { return New() })
}

func TestFullStoreRefusesNewMail(t *testing.T) {
	t.Parallel()
	s := New()
	id, err := s.NewID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.SetFull(true)
	if _, err := s.NewID(t.Context()); !errors.Is(err, queue.ErrNoSpace) {
		t.Errorf("NewID: %v", err)
	}
	if err := s.Commit(t.Context(), queuetest.Message(id, 1, 1)); !errors.Is(err, queue.ErrNoSpace) {
		t.Errorf("Commit: %v", err)
	}
}
