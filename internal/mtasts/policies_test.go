package mtasts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/keep"
)

// world is a fake of what is outside: records, policy servers, time.
type world struct {
	mu      sync.Mutex
	now     time.Time
	ids     map[string]string // by domain; absent: no record
	dnsErr  error
	texts   map[string]string // by domain; absent: fetches fail
	fetches int
	wait    chan struct{} // when set, fetches wait for it
}

func newWorld() *world {
	return &world{now: time.Unix(1_800_000_000, 0), ids: make(map[string]string), texts: make(map[string]string)}
}

func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) TXT(_ context.Context, name string) (*dns.Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok := w.ids[strings.TrimPrefix(name, "_mta-sts.")]
	switch {
	case w.dnsErr != nil:
		return nil, w.dnsErr
	case !ok:
		return nil, dns.ErrNoRecord
	}
	return &dns.Answer{Text: []string{"v=STSv1; id=" + id}}, nil
}

var errAway = errors.New("connection refused")

func (w *world) Fetch(ctx context.Context, domain string) ([]byte, error) {
	w.mu.Lock()
	w.fetches++
	text, ok := w.texts[domain]
	wait := w.wait
	w.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !ok {
		return nil, errAway
	}
	return []byte(text), nil
}

// change changes the world.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) fetched() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetches
}

// start returns Policies in a world.
func start(t *testing.T, w *world, store keep.Keeper) *Policies {
	t.Helper()
	p := New(Config{DNS: w, Fetcher: w, Store: store, Now: w.Now})
	t.Cleanup(func() { p.Close() })
	return p
}

// expect asks for the policy of a domain; want is its max_age in seconds, -1 for no
// policy.
func expect(t *testing.T, p *Policies, domain string, want int, wantErr error) {
	t.Helper()
	got, err := p.Policy(t.Context(), domain)
	age := -1
	if got != nil {
		age = int(got.MaxAge.Seconds())
	}
	if age != want || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		t.Fatalf("policy of %s: max_age %d, %v; want %d, %v", domain, age, err, want, wantErr)
	}
}

func text(age int) string {
	return fmt.Sprintf("version: STSv1\nmode: enforce\nmx: mx.example.org\nmax_age: %d\n", age)
}

func TestPolicyIsBelievedForItsAge(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := start(t, w, nil)
	expect(t, p, "example.org", -1, nil)
	if w.fetched() != 0 {
		t.Fatal("fetched although no record announces a policy")
	}
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "1", text(3600) })
	expect(t, p, "Example.ORG", 3600, nil)
	expect(t, p, "example.org", 3600, nil)
	if n := w.fetched(); n != 1 {
		t.Fatalf("fetched %d times, want once", n)
	}
	// The record disappears, the server too: the policy stays.
	w.change(func() {
		delete(w.ids, "example.org")
		delete(w.texts, "example.org")
		w.now = w.now.Add(59 * time.Minute)
	})
	expect(t, p, "example.org", 3600, nil)
	w.change(func() { w.dnsErr = errors.New("servers fail") })
	expect(t, p, "example.org", 3600, nil)
	w.change(func() { w.now = w.now.Add(2 * time.Minute) })
	expect(t, p, "example.org", -1, nil)
}

func TestNewEditionIsFetched(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := start(t, w, nil)
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "1", text(100000) })
	expect(t, p, "example.org", 100000, nil)
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "2", text(200000) })
	expect(t, p, "example.org", 200000, nil)
	// A newer one that cannot be had, or is malformed, leaves the old one in force.
	w.change(func() { w.ids["example.org"] = "3"; delete(w.texts, "example.org") })
	expect(t, p, "example.org", 200000, errAway)
	n := w.fetched()
	expect(t, p, "example.org", 200000, errAway)
	if w.fetched() != n {
		t.Error("fetched again right after a failure")
	}
	w.change(func() { w.texts["example.org"] = "nonsense"; w.now = w.now.Add(retry) })
	expect(t, p, "example.org", 200000, ErrInvalid)
	// A further edition need not wait.
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "4", text(300000) })
	expect(t, p, "example.org", 300000, nil)
}

func TestUnknownPolicyThatCannotBeHad(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := start(t, w, nil)
	w.change(func() { w.ids["example.org"] = "1" })
	expect(t, p, "example.org", -1, errAway)
	w.change(func() { w.texts["example.org"] = text(3600); w.now = w.now.Add(retry) })
	expect(t, p, "example.org", 3600, nil)
}

func TestOldPolicyIsRefreshedInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := start(t, w, nil)
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "1", text(604800) })
	expect(t, p, "example.org", 604800, nil)
	w.change(func() {
		w.now = w.now.Add(25 * time.Hour)
		w.texts["example.org"] = text(700000)
		w.wait = make(chan struct{})
	})
	expect(t, p, "example.org", 604800, nil) // not waited for
	p.mu.Lock()
	c := p.calls["example.org"]
	p.mu.Unlock()
	if c == nil {
		t.Fatal("no refresh under way")
	}
	close(w.wait)
	<-c.done
	expect(t, p, "example.org", 700000, nil)
	if n := w.fetched(); n != 2 {
		t.Errorf("fetched %d times, want twice", n)
	}
}

func TestWaitForAFetchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := start(t, w, nil)
	w.change(func() { w.ids["example.org"] = "1"; w.wait = make(chan struct{}) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := p.Policy(ctx, "example.org"); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", got, err)
	}
	p.Close() // ends the fetch
	if got, err := p.Policy(t.Context(), "example.org"); got != nil || err == nil {
		t.Errorf("after Close: %+v, %v", got, err)
	}
}

func TestEqualQuestionsBecomeOneFetch(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := start(t, w, nil)
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "1", text(3600) })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := p.Policy(t.Context(), "example.org"); err != nil || got == nil {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := w.fetched(); n != 1 {
		t.Errorf("fetched %d times, want once", n)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld()
	p := New(Config{DNS: w, Fetcher: w, Now: w.Now, MaxCached: 10})
	t.Cleanup(func() { p.Close() })
	for i := range 50 {
		d := fmt.Sprintf("d%d.example", i)
		w.change(func() {
			if w.ids[d] = "1"; i%2 == 0 {
				w.texts[d] = text(3600)
			}
		})
		if _, err := p.Policy(t.Context(), d); (err == nil) != (i%2 == 0) {
			t.Fatal(err)
		}
	}
	if len(p.cache) > 10 || len(p.failed) > 10 {
		t.Errorf("%d policies and %d failures kept", len(p.cache), len(p.failed))
	}
}

func TestStoredPolicySurvivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld()
	dir := t.TempDir()
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "1", text(3600) })
	p := start(t, w, keep.New(dir, keep.Limits{Records: 10, Size: MaxEntry}))
	expect(t, p, "example.org", 3600, nil)
	p.Close()
	w.change(func() { delete(w.ids, "example.org"); delete(w.texts, "example.org") })
	expect(t, start(t, w, keep.New(dir, keep.Limits{Records: 10, Size: MaxEntry})), "example.org", 3600, nil)
	w.change(func() { w.now = w.now.Add(2 * time.Hour) })
	expect(t, start(t, w, keep.New(dir, keep.Limits{Records: 10, Size: MaxEntry})), "example.org", -1, nil)
}

func TestDamagedFileIsIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld()
	dir := t.TempDir()
	for _, content := range []string{"", "nonsense", "mta-sts 1 1 1800000000 other.example\n" + text(3600),
		"mta-sts 1 1 1800000000 example.org\nnonsense", "mta-sts 1 1 -5 example.org\n" + text(3600)} {
		if err := os.WriteFile(filepath.Join(dir, "example.org"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(t, start(t, w, keep.New(dir, keep.Limits{Records: 10, Size: MaxEntry})), "example.org", -1, nil)
	}
	w.change(func() { w.ids["example.org"], w.texts["example.org"] = "1", text(3600) })
	expect(t, start(t, w, keep.New(dir, keep.Limits{Records: 10, Size: MaxEntry})), "example.org", 3600, nil)
}

// broken is a Keeper that does not work.
type broken struct{ keep.Keeper }

func (broken) Get(context.Context, string) ([]byte, error) { return nil, errAway }

// Who cannot know whether a policy is in force must not send.
func TestStoreThatCannotBeReadIsNoLackOfAPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld()
	expect(t, start(t, w, broken{}), "example.org", -1, ErrUnknown)
}

func TestSlowPolicyServerHoldsMailUpForAWhileOnly(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.change(func() {
		w.ids["example.org"], w.texts["example.org"], w.wait = "1", text(3600), make(chan struct{})
	})
	p := New(Config{DNS: w, Fetcher: w, Now: w.Now, Patience: time.Millisecond})
	t.Cleanup(func() { p.Close() })
	expect(t, p, "example.org", -1, context.DeadlineExceeded)
	p.mu.Lock()
	c := p.calls["example.org"]
	p.mu.Unlock()
	close(w.wait)
	<-c.done // it went on
	expect(t, p, "example.org", 3600, nil)
}

// An entry that parses has the form that Append gives.
func FuzzEntry(f *testing.F) {
	f.Add(Entry{Domain: "example.org", ID: "1", Fetched: time.Unix(1_800_000_000, 0), Text: []byte(good)}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err == nil && string(e.Append(nil)) != string(b) {
			t.Errorf("%q became %q", b, e.Append(nil))
		}
	})
}
