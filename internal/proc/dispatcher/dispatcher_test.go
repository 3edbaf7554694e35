package dispatcher

import "testing"

func TestLocalSessionsOfOneUserAreBounded(t *testing.T) {
	t.Parallel()
	d := &Dispatcher{local: map[int]int{}}
	for n := range maxLocal {
		if !d.enter(1000) {
			t.Fatalf("session %d was refused", n)
		}
	}
	if d.enter(1000) {
		t.Error("a session beyond the bound was let in")
	}
	if !d.enter(1001) {
		t.Error("another user was refused")
	}
	for n := range maxLocal + 1 {
		if !d.enter(0) {
			t.Fatalf("root's session %d was refused", n)
		}
	}
	d.leave(1000)
	if !d.enter(1000) {
		t.Error("a session was refused after another one had ended")
	}
	d.leave(1001)
	if _, ok := d.local[1001]; ok {
		t.Error("a user without sessions is remembered")
	}
}
