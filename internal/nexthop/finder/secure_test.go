package finder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/dnstest"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

const digest = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

const secureZone = `
dane.example.            MX    10 good.example.
dane.example.            MX    20 unusable.example.
dane.example.            MX    30 without.example.
dane.example.            MX    40 bogus.example.
good.example.            A     192.0.2.1
unusable.example.        A     192.0.2.2
without.example.         A     192.0.2.3
bogus.example.           A     192.0.2.4
_25._tcp.good.example.     TLSA 3 1 1 ` + digest + `
_25._tcp.unusable.example. TLSA 1 1 1 ` + digest + `
_25._tcp.bogus.example.    TLSA 3 1 1 ` + digest + `
insecure.example.        MX    10 good.example.
hostinsecure.example.    MX    10 unsigned.example.
unsigned.example.        A     192.0.2.5
_25._tcp.unsigned.example. TLSA 3 1 1 ` + digest + `
tlsainsecure.example.    MX    10 tu.example.
tu.example.              A     192.0.2.6
_25._tcp.tu.example.     TLSA 3 1 1 ` + digest + `
allbogus.example.        MX    10 bogus.example.
moved.example.           MX    10 cname.example.
cname.example.           CNAME good.example.
movedback.example.       MX    10 cname2.example.
cname2.example.          CNAME without.example.
_25._tcp.cname2.example. TLSA 2 0 1 ` + digest + `
selfmx.example.          A     192.0.2.7
_25._tcp.selfmx.example. TLSA 3 1 1 ` + digest + `
_587._tcp.good.example.  TLSA 2 1 2 ` + digest + digest + `
sts.example.             MX    10 mx.sts.example.
sts.example.             MX    20 other.example.
mx.sts.example.          A     192.0.2.8
other.example.           A     192.0.2.9
`

// startSecure returns a finder in a world where some names are signed.
func startSecure(t *testing.T, cfg Config) *Finder {
	t.Helper()
	f, s := start(t, cfg)
	s.Add(t, secureZone)
	for _, name := range []string{
		"dane.example", "good.example", "unusable.example", "without.example", "bogus.example",
		"_25._tcp.good.example", "_25._tcp.unusable.example", "hostinsecure.example", "_25._tcp.unsigned.example",
		"tlsainsecure.example", "tu.example", "allbogus.example", "moved.example", "cname.example",
		"movedback.example", "cname2.example", "_25._tcp.cname2.example", "selfmx.example", "_25._tcp.selfmx.example",
		"_587._tcp.good.example",
	} {
		s.Set(name, dnstest.Fault{Authentic: true})
	}
	s.Set("_25._tcp.bogus.example", dnstest.Fault{Rcode: dnstest.ServFail})
	return f
}

// protection returns how the hosts are protected: "host level names; …".
func protection(h *nexthop.Hops) string {
	var out []string
	for _, g := range h.Groups {
		for _, host := range g {
			s := host.Security
			text := fmt.Sprintf("%s %s", host.Name, s.TLS)
			if s.Implicit {
				text += " implicit"
			}
			if s.Testing {
				text += " testing"
			}
			if len(s.Names) > 0 {
				text += " for " + strings.Join(s.Names, ",")
			}
			if s.ServerName != host.Name {
				text += " sni " + s.ServerName
			}
			if len(s.Records) > 0 {
				text += fmt.Sprintf(" by %d.%d.%d", s.Records[0].Usage, s.Records[0].Selector, s.Records[0].Matching)
			}
			if s.Policy >= 0 {
				text += " " + h.Policies[s.Policy].Type
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, "; ")
}

func TestDANEDecidesWhereTheWholePathIsSigned(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{DANE: true})
	const none = " no-policy-found"
	for _, tt := range []struct {
		name, domain string
		tls          Demand
		want         string
	}{
		{"each host by its records", "dane.example", AsOffered,
			"good.example dane for good.example,dane.example by 3.1.1 tlsa; unusable.example encrypted tlsa; without.example opportunistic" + none},
		{"action demands a good certificate", "dane.example", Verify,
			"good.example dane for good.example,dane.example by 3.1.1 tlsa; unusable.example verified for unusable.example tlsa; without.example verified for without.example" + none},
		{"action demands TLS", "dane.example", NoVerify,
			"good.example dane for good.example,dane.example by 3.1.1 tlsa; unusable.example encrypted tlsa; without.example encrypted" + none},
		{"MX not signed", "insecure.example", AsOffered, "good.example opportunistic" + none},
		{"addresses not signed", "hostinsecure.example", AsOffered, "unsigned.example opportunistic" + none},
		{"records not signed", "tlsainsecure.example", AsOffered, "tu.example opportunistic" + none},
		{"records where the alias leads", "moved.example", AsOffered,
			"cname.example dane for good.example,cname.example,moved.example sni good.example by 3.1.1 tlsa"},
		{"records of the alias itself", "movedback.example", AsOffered,
			"cname2.example dane for cname2.example,movedback.example by 2.0.1 tlsa"},
		{"domain without MX", "selfmx.example", AsOffered, "selfmx.example dane for selfmx.example by 3.1.1 tlsa"},
	} {
		h, err := f.Find(t.Context(), Query{Domain: tt.domain, TLS: tt.tls})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := protection(h); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

func TestHostWhoseRecordsCannotBeHadIsNotUsed(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{DANE: true})
	h, err := f.Find(t.Context(), Query{Domain: "dane.example"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(show(h), "bogus") || len(h.Failures) != 1 || h.Failures[0].Failure != tlsrpt.DNSSECInvalid {
		t.Errorf("%s, failures %+v", show(h), h.Failures)
	}
	_, err = f.Find(t.Context(), Query{Domain: "allbogus.example"})
	if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Code != 451 || e.Enhanced != (smtp.EnhancedCode{4, 7, 5}) {
		t.Errorf("%v, want a temporary failure", err)
	}
	f.cfg.DANE = false
	if h, err := f.Find(t.Context(), Query{Domain: "allbogus.example"}); err != nil || protection(h) != "bogus.example opportunistic no-policy-found" {
		t.Errorf("without DANE: %+v, %v", h, err)
	}
}

// fixed is an STS with one answer for all domains.
type fixed struct {
	policy *mtasts.Policy
	err    error
}

func (f fixed) Policy(context.Context, string) (*mtasts.Policy, error) { return f.policy, f.err }

// sts returns an STS policy of a mode for hosts below sts.example.
func sts(t *testing.T, mode string) fixed {
	t.Helper()
	p, err := mtasts.ParsePolicy([]byte("version: STSv1\nmode: " + mode + "\nmx: *.sts.example\nmax_age: 86400\n"))
	if err != nil {
		t.Fatal(err)
	}
	return fixed{policy: p}
}

func TestPolicyOfMTASTS(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		sts        fixed
		tls        Demand
		failures   []tlsrpt.Result
	}{
		{"enforce", "mx.sts.example verified for mx.sts.example sts", sts(t, "enforce"), AsOffered, []tlsrpt.Result{tlsrpt.ValidationFailure}},
		{"enforce overrides no-verify", "mx.sts.example verified for mx.sts.example sts", sts(t, "enforce"), NoVerify, []tlsrpt.Result{tlsrpt.ValidationFailure}},
		{"testing", "mx.sts.example opportunistic testing for mx.sts.example sts; other.example opportunistic sts", sts(t, "testing"), AsOffered,
			[]tlsrpt.Result{tlsrpt.ValidationFailure}},
		{"none", "mx.sts.example opportunistic no-policy-found; other.example opportunistic no-policy-found", sts(t, "none"), AsOffered, nil},
		{"no policy", "mx.sts.example opportunistic no-policy-found; other.example opportunistic no-policy-found", fixed{}, AsOffered, nil},
		{"policy cannot be had", "mx.sts.example opportunistic no-policy-found; other.example opportunistic no-policy-found",
			fixed{err: errors.New("away")}, AsOffered, []tlsrpt.Result{tlsrpt.STSPolicyFetchError}},
		{"newer edition cannot be had", "mx.sts.example verified for mx.sts.example sts",
			fixed{sts(t, "enforce").policy, fmt.Errorf("new: %w", mtasts.ErrInvalid)}, AsOffered, []tlsrpt.Result{tlsrpt.STSPolicyInvalid, tlsrpt.ValidationFailure}},
	} {
		f := startSecure(t, Config{DANE: true, STS: tt.sts})
		h, err := f.Find(t.Context(), Query{Domain: "sts.example", TLS: tt.tls})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := protection(h); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
		var failures []tlsrpt.Result
		for _, e := range h.Failures {
			failures = append(failures, e.Failure)
			if e.Domain != "sts.example" {
				t.Errorf("%s: failure of %q", tt.name, e.Domain)
			}
		}
		if !slices.Equal(failures, tt.failures) {
			t.Errorf("%s: failures %v, want %v", tt.name, failures, tt.failures)
		}
	}
	f := startSecure(t, Config{STS: sts(t, "enforce")})
	_, err := f.Find(t.Context(), Query{Domain: "one.example"})
	if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Enhanced != (smtp.EnhancedCode{4, 7, 5}) {
		t.Errorf("no MX host is in the policy: %v, want a temporary failure", err)
	}
}

func TestActionDemandsMoreThanTheDomain(t *testing.T) {
	t.Parallel()
	strict := sts(t, "testing")
	for _, tt := range []struct {
		name, domain string
		sts          fixed
		tls          Demand
		want         string // protection, or the reply of the failure
	}{
		{"opportunistic asks nobody", "sts.example", sts(t, "enforce"), Indifferent, "mx.sts.example opportunistic no-policy-found; other.example opportunistic no-policy-found"},
		{"opportunistic and DANE", "allbogus.example", fixed{}, Indifferent, "bogus.example opportunistic no-policy-found"},
		{"dane takes hosts with records only", "dane.example", fixed{}, ByDANE, "good.example dane for good.example,dane.example by 3.1.1 tlsa"},
		{"dane without DNSSEC", "insecure.example", fixed{}, ByDANE, "451 4.7.5 No mail host of the domain can be reached securely"},
		{"dane is not met by a policy", "sts.example", sts(t, "enforce"), ByDANE, "451 4.7.5 No mail host of the domain can be reached securely"},
		{"sts enforces a policy under test", "sts.example", strict, Vouched, "mx.sts.example verified for mx.sts.example sts"},
		{"sts without a policy", "sts.example", fixed{}, Vouched, "451 4.7.5 No mail host of the domain can be reached securely"},
		{"sts takes DNSSEC for a policy", "dane.example", fixed{}, Vouched,
			"good.example dane for good.example,dane.example by 3.1.1 tlsa; unusable.example verified for unusable.example tlsa; without.example verified for without.example no-policy-found"},
	} {
		f := startSecure(t, Config{DANE: true, STS: tt.sts})
		h, err := f.Find(t.Context(), Query{Domain: tt.domain, TLS: tt.tls})
		got := ""
		if e, ok := errors.AsType[*smtp.Error](err); ok {
			got = e.Reply()
		} else if h != nil {
			got = protection(h)
		}
		if got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

// What a sender requires and no host has fails at once, if that is proven.
func TestMessageThatRequiresTLS(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, domain string
		sts          fixed
		want         string
	}{
		{"nobody vouches", "sts.example", fixed{}, "550 5.7.10 No mail host of the domain can be reached as securely as the sender requires"},
		{"policy cannot be had", "sts.example", fixed{err: errors.New("away")}, "451 4.7.5 No mail host of the domain can be reached securely"},
		{"records cannot be had", "allbogus.example", fixed{}, "451 4.7.5 No mail host of the domain can be reached securely"},
	} {
		f := startSecure(t, Config{DANE: true, STS: tt.sts})
		_, err := f.Resolve(t.Context(), Request{Options: &policy.RelayOptions{}, Domain: tt.domain, RequireTLS: true}, nil)
		if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Reply() != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	for _, tt := range []struct {
		tls               string
		require, optional bool
		want              Demand
	}{
		{"", true, false, Vouched}, {"no-verify", true, true, Vouched}, {"dane", true, false, ByDANE}, {"opportunistic", true, false, Vouched},
		{"", false, true, Indifferent}, {"required", false, true, Verify}, {"sts", false, true, Vouched}, {"", false, false, AsOffered},
	} {
		r := Request{Options: &policy.RelayOptions{TLS: tt.tls}, RequireTLS: tt.require, TLSOptional: tt.optional}
		if got := r.demand(); got != tt.want {
			t.Errorf("tls %q, required %v, optional %v: %v, want %v", tt.tls, tt.require, tt.optional, got, tt.want)
		}
	}
}

func TestFamilyWithoutAnAddressOfOursIsNotUsed(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{Families: func() (bool, bool) { return true, false }})
	h, err := f.Find(t.Context(), Query{Domain: "one.example"})
	if err != nil || strings.Contains(show(h), "2001:") {
		t.Errorf("%v, %v", show(h), err)
	}
	_, err = f.Find(t.Context(), Query{Domain: "six.example"})
	if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Reply() != "451 4.4.4 Address family mismatch on destination MXs" {
		t.Errorf("%v", err)
	}
	f.cfg.Families = func() (bool, bool) { return false, false } // nothing is known
	if _, err := f.Find(t.Context(), Query{Domain: "six.example"}); err != nil {
		t.Error(err)
	}
}

func TestDANEGoesBeforeMTASTS(t *testing.T) {
	t.Parallel()
	f := startSecure(t, Config{DANE: true, STS: sts(t, "enforce")})
	h, err := f.Find(t.Context(), Query{Domain: "dane.example"})
	want := "good.example dane for good.example,dane.example by 3.1.1 tlsa; unusable.example encrypted tlsa"
	if err != nil || protection(h) != want {
		t.Errorf("%v %v\nwant %s", protection(h), err, want)
	}
	// A policy does not make up for records that cannot be had (RFC 8461 section 2).
	if h, err := f.Find(t.Context(), Query{Domain: "allbogus.example"}); err == nil {
		t.Errorf("%s, want a failure", protection(h))
	}
}
