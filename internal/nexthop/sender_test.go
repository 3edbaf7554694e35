package nexthop

import (
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/srs"
)

func TestSenderIsRewritten(t *testing.T) {
	t.Parallel()
	rewriter, err := srs.New("secret", "", 7, func() time.Time { return time.Unix(1_700_000_000, 0) })
	if err != nil {
		t.Fatal(err)
	}
	anna := smtp.Path{Local: "anna", Domain: "origin.example"}
	list := smtp.Path{Local: "list", Domain: "forwarder.example"}
	out := smtp.Path{Local: "bob", Domain: "next.example"}
	for _, tt := range []struct {
		name, mailFrom string
		srs            bool
		sender, dest   smtp.Path
		want           string
	}{
		{"nothing to do", "", false, anna, out, "anna@origin.example"},
		{"whole address", "relay@mine.example", false, anna, out, "relay@mine.example"},
		{"domain only", "@mine.example", false, anna, out, "anna@mine.example"},
		{"user only", "relay", false, anna, out, "relay@origin.example"},
		{"null sender", "relay@mine.example", true, smtp.Path{}, out, ""},
		{"not forwarded", "", true, anna, list, "anna@origin.example"},
		{"forwarded", "", true, anna, out, "SRS0=...=origin.example=anna@forwarder.example"},
		{"domain wins over SRS", "@mine.example", true, anna, out, "anna@mine.example"},
		{"user with SRS", "relay", true, anna, out, "SRS0=...=origin.example=relay@forwarder.example"},
	} {
		m, err := ParseMailFrom(tt.mailFrom)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		s := Sender{MailFrom: m}
		if tt.srs {
			s.SRS = rewriter
		}
		got := s.Rewrite(tt.sender, list, tt.dest).String()
		head, tail, elided := strings.Cut(tt.want, "...")
		if elided && strings.HasPrefix(got, head) && strings.HasSuffix(got, tail) {
			continue
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, in := range []string{"@", "a@", "a b", "@a b", "x@y@z", "@[1.2.3"} {
		if m, err := ParseMailFrom(in); err == nil {
			t.Errorf("ParseMailFrom(%q) = %+v, want an error", in, m)
		}
	}
}
