package srs

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func path(s string) smtp.Path {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return smtp.Path{}
	}
	return smtp.Path{Local: s[:i], Domain: s[i+1:]}
}

// newRewriter returns one whose clock the test moves.
func newRewriter(t testing.TB, key, backup string, now *time.Time) *Rewriter {
	t.Helper()
	r, err := New(key, backup, 4, func() time.Time { return *now })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBounceReachesTheOriginalSender(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	r := newRewriter(t, "secret", "", &now)
	for _, sender := range []string{"joe@origin.example", "Joe=x+y@origin.example", `a b@origin.example`, "SRSX@o.example"} {
		p := r.Forward(path(sender), "fwd.example")
		if !Looks(p) || p.Domain != "fwd.example" || !strings.HasPrefix(p.Local, "SRS0=") {
			t.Errorf("Forward(%s) = %s", sender, p)
		}
		if got, err := r.Reverse(p); err != nil || got != path(sender) {
			t.Errorf("Reverse(%s) = %v, %v, want %s", p, got, err, sender)
		}
		low := smtp.Path{Local: strings.ToLower(p.Local), Domain: "FWD.example"}
		if got, err := r.Reverse(low); err != nil || !strings.EqualFold(got.String(), path(sender).String()) {
			t.Errorf("Reverse(%s) = %v, %v, want %s whatever the case", low, got, err, sender)
		}
	}
}

func TestChainOfForwarders(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	first, second, third := newRewriter(t, "1", "", &now), newRewriter(t, "2", "", &now), newRewriter(t, "3", "", &now)
	a := first.Forward(path("joe@origin.example"), "one.example")
	b := second.Forward(a, "two.example")
	c := third.Forward(b, "three.example")
	if !strings.HasPrefix(b.Local, "SRS1=") || !strings.Contains(b.Local, "=one.example==") || !strings.HasPrefix(c.Local, "SRS1=") || strings.Contains(c.Local, "two.example") {
		t.Errorf("second hop %s, third hop %s: want SRS1 that names the first forwarder", b, c)
	}
	for r, p := range map[*Rewriter]smtp.Path{second: b, third: c} {
		if got, err := r.Reverse(p); err != nil || got != a {
			t.Errorf("Reverse(%s) = %s, %v, want %s", p, got, err, a)
		}
	}
}

func TestReverseRefuses(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	r := newRewriter(t, "secret", "old", &now)
	good := r.Forward(path("joe@origin.example"), "fwd.example")
	at := func(days int) smtp.Path {
		then := now.Add(time.Duration(days) * day)
		return newRewriter(t, "secret", "", &then).Forward(path("joe@origin.example"), "fwd.example")
	}
	for _, tt := range []struct {
		name string
		in   smtp.Path
		err  error
	}{
		{"good", good, nil},
		{"last day", at(-4), nil},
		{"too old", at(-5), ErrExpired},
		{"clock a day ahead", at(1), nil},
		{"clock two days ahead", at(2), ErrExpired},
		{"backup key", newRewriter(t, "old", "", &now).Forward(path("joe@origin.example"), "fwd.example"), nil},
		{"foreign key", newRewriter(t, "x", "", &now).Forward(path("joe@origin.example"), "fwd.example"), ErrHash},
		{"other sender", smtp.Path{Local: strings.Replace(good.Local, "joe", "eve", 1), Domain: good.Domain}, ErrHash},
		{"other domain", smtp.Path{Local: good.Local, Domain: "other.example"}, ErrHash},
		{"no hash", path("SRS0=@fwd.example"), ErrMalformed},
		{"empty hash", path("SRS0==AA=o.example=joe@fwd.example"), ErrHash},
		{"plain address", path("joe@fwd.example"), ErrMalformed},
	} {
		if _, err := r.Reverse(tt.in); !errors.Is(err, tt.err) {
			t.Errorf("%s: Reverse(%s): %v, want %v", tt.name, tt.in, err, tt.err)
		}
	}
}

func TestAddressesOfOpenSMTPD7AreDecoded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	r := newRewriter(t, "secret", "", &now)
	rest := r.stamp() + "=origin.example=Joe"
	// Four characters of base64 over SHA-1 of key and text; computed by other means
	// for this key and day.
	old := path("SRS0=" + oldHash([]byte("secret"), rest, "fwd.example") + "=" + rest + "@fwd.example")
	if want := "SRS0=VgEl=LB=origin.example=Joe"; old.Local != want {
		t.Errorf("old form %s, want %s", old.Local, want)
	}
	if got, err := r.Reverse(old); err != nil || got != path("Joe@origin.example") {
		t.Errorf("Reverse(%s) = %s, %v", old, got, err)
	}
}

func TestSenderStaysAsItIs(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	r := newRewriter(t, "secret", "", &now)
	for _, p := range []smtp.Path{{}, {Local: "joe"}, path(strings.Repeat("a", 240) + "@o.example"), path("SRS1=x@o.example")} {
		if got := r.Forward(p, "fwd.example"); got != p {
			t.Errorf("Forward(%s) = %s, want it unchanged", p, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New("", "", 4, nil); err == nil {
		t.Error("an empty key gave no error")
	}
	for _, days := range []int{0, 1023} {
		if _, err := New("k", "", days, nil); err == nil {
			t.Errorf("%d days gave no error", days)
		}
	}
}

// FuzzReverse states that no address makes Reverse panic and that none is accepted
// that was not made with the key.
func FuzzReverse(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	r := newRewriter(f, "secret", "", &now)
	f.Add("SRS0=AAAA=AA=o.example=joe", "fwd.example")
	f.Add("SRS1=AAAAAAAA=one.example==AAAA=AA=o.example=joe", "fwd.example")
	f.Add(r.Forward(path("joe@o.example"), "fwd.example").Local, "fwd.example")
	f.Fuzz(func(t *testing.T, local, domain string) {
		p, err := r.Reverse(smtp.Path{Local: local, Domain: domain})
		if err == nil && (p.Local == "" || p.Domain == "") {
			t.Errorf("Reverse(%q@%q) = %+v", local, domain, p)
		}
		_ = r.Forward(smtp.Path{Local: local, Domain: domain}, "fwd.example")
	})
}
