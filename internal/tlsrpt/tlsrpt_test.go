package tlsrpt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWhatAnErrorIsCalled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want Result
	}{
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}, CertificateHostMismatch},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, CertificateNotTrusted},
		{fmt.Errorf("handshake: %w", x509.CertificateInvalidError{Reason: x509.Expired}), CertificateExpired},
		{x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}, CertificateNotTrusted},
		{errors.New("EOF"), ValidationFailure},
	} {
		if got := ResultOf(tt.err); got != tt.want {
			t.Errorf("%T: %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestReasonIsCutAndCleaned(t *testing.T) {
	t.Parallel()
	if got := Reason(errors.New("a\r\nb\x00\xff")); got != "a??b?" {
		t.Errorf("%q", got)
	}
	if got := Reason(errors.New(strings.Repeat("ü", 200))); len(got) > maxReason || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestWhoWantsReports(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		texts []string
		want  string // destinations in order, empty: none
	}{
		{"mail", []string{"v=TLSRPTv1;rua=mailto:reports@example.com"}, "reports@example.com"},
		{"web", []string{"v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt"}, "https://reporting.example.com/v1/tlsrpt"},
		{"both, with blanks", []string{"v=TLSRPTv1 ; rua = mailto:a@example.com , https://b.example/x ;"}, "a@example.com https://b.example/x"},
		{"other records beside", []string{"v=spf1 -all", "v=TLSRPTv1; rua=mailto:a@example.com"}, "a@example.com"},
		{"unknown fields", []string{"v=TLSRPTv1; x=y; rua=mailto:a@example.com; z"}, "a@example.com"},
		{"escapes", []string{"v=TLSRPTv1; rua=mailto:a%2Cb%40c@example.com"}, ""},
		{"escaped plus", []string{"v=TLSRPTv1; rua=mailto:a%2Bb@example.com"}, "a+b@example.com"},
		{"query is dropped", []string{"v=TLSRPTv1; rua=mailto:a@example.com?subject=x"}, "a@example.com"},
		{"two records", []string{"v=TLSRPTv1; rua=mailto:a@example.com", "v=TLSRPTv1; rua=mailto:a@example.com"}, ""},
		{"other version", []string{"v=TLSRPTv2; rua=mailto:a@example.com"}, ""},
		{"version alone", []string{"v=TLSRPTv1"}, ""},
		{"no rua", []string{"v=TLSRPTv1; x=y"}, ""},
		{"plain http", []string{"v=TLSRPTv1; rua=http://b.example/x"}, ""},
		{"other scheme", []string{"v=TLSRPTv1; rua=file:///etc/passwd"}, ""},
		{"password in the URL", []string{"v=TLSRPTv1; rua=https://u:p@b.example/x"}, ""},
		{"line break", []string{"v=TLSRPTv1; rua=mailto:a%0D%0ABcc:b@example.com"}, ""},
		{"no domain", []string{"v=TLSRPTv1; rua=mailto:root"}, ""},
		{"good one after bad ones", []string{"v=TLSRPTv1; rua=,x,:,mailto:,mailto:a@example.com"}, "a@example.com"},
		{"none", nil, ""},
	} {
		d, err := ParseRecord(tt.texts)
		var got []string
		for _, p := range d.Mail {
			got = append(got, p.String())
		}
		got = append(got, d.Web...)
		if strings.Join(got, " ") != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	many := "v=TLSRPTv1; rua=" + strings.Repeat("mailto:a@example.com,", 20)
	if d, err := ParseRecord([]string{many}); err != nil || len(d.Mail) != maxDestinations {
		t.Errorf("%d destinations, %v; want %d", len(d.Mail), err, maxDestinations)
	}
}

// Destinations are addresses with a domain and https URLs, without line breaks.
func FuzzRecord(f *testing.F) {
	f.Add("v=TLSRPTv1; rua=mailto:a%2Bb@example.com,https://b.example/x")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseRecord([]string{s})
		if err != nil {
			return
		}
		if n := len(d.Mail) + len(d.Web); n == 0 || n > maxDestinations {
			t.Errorf("%d destinations", n)
		}
		var all []string
		for _, p := range d.Mail {
			if p.Domain == "" {
				t.Errorf("%+v", p)
			}
			all = append(all, p.String())
		}
		for _, u := range d.Web {
			if !strings.HasPrefix(u, "https://") {
				t.Errorf("%q", u)
			}
			all = append(all, u)
		}
		if slices.ContainsFunc(all, func(s string) bool { return strings.ContainsAny(s, "\r\n\x00") }) {
			t.Errorf("%q", all)
		}
	})
}
