package dns

import (
	"errors"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// query returns the question the packets below are held against.
func query(id uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion("example.org.", dns.TypeMX)
	q.Id = id
	return q
}

func TestOnlyTheAnswerToTheQuestionIsTaken(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*dns.Msg){
		"id":       func(m *dns.Msg) { m.Id++ },
		"query":    func(m *dns.Msg) { m.Response = false },
		"opcode":   func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus },
		"name":     func(m *dns.Msg) { m.Question[0].Name = "example.com." },
		"type":     func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA },
		"class":    func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"none":     func(m *dns.Msg) { m.Question = nil },
		"too many": func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
	} {
		m := new(dns.Msg).SetReply(query(7))
		change(m)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(packet, query(7)); !errors.Is(err, errMismatch) {
			t.Errorf("another %s: %v, want errMismatch", name, err)
		}
	}
	packet, err := new(dns.Msg).SetReply(query(7)).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(packet, query(7)); err != nil {
		t.Errorf("the answer: %v", err)
	}
}

func TestRecordsOfAnotherNameAreNotTaken(t *testing.T) {
	t.Parallel()
	m := new(dns.Msg).SetReply(query(7))
	m.RecursionAvailable = true
	rr, err := dns.NewRR("example.com. 300 MX 10 evil.example.com.")
	if err != nil {
		t.Fatal(err)
	}
	m.Answer = []dns.RR{rr}
	if out := interpret(m, "example.org", dns.TypeMX, false); !errors.Is(out.err, ErrNoRecord) {
		t.Errorf("outcome %+v, want ErrNoRecord", out)
	}
}

func TestReferralIsNoAbsence(t *testing.T) {
	t.Parallel()
	m := new(dns.Msg).SetReply(query(7))
	if refusal(m) == nil {
		t.Error("an empty answer of a server that does not recurse is taken for absence")
	}
	m.RecursionAvailable = true
	if err := refusal(m); err != nil {
		t.Errorf("an empty answer of a recursive server: %v", err)
	}
}

// Whatever a server sends gives an answer with well-formed names in bounds, or an
// error, and is kept for a time in bounds.
func FuzzResponse(f *testing.F) {
	add := func(qtype uint16, records ...string) {
		m := new(dns.Msg)
		m.SetQuestion("example.org.", qtype)
		m.Id = 7
		m.Response, m.RecursionAvailable = true, true
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet, qtype)
	}
	add(dns.TypeMX, "example.org. 1 MX 10 mx.example.org.", "example.org. 1 MX 0 .")
	add(dns.TypeA, "example.org. 1 CNAME a.example.org.", "a.example.org. 1 A 192.0.2.1")
	add(dns.TypeAAAA, "example.org. 1 AAAA ::1")
	add(dns.TypePTR, "example.org. 1 PTR example.org.")
	add(dns.TypeTXT, `example.org. 1 TXT "a" "\"\\\007"`)
	add(dns.TypeTLSA, "example.org. 1 TLSA 3 1 1 00ff")
	add(dns.TypeA, "example.org. 1 CNAME example.org.")
	f.Fuzz(func(t *testing.T, packet []byte, qtype uint16) {
		q := new(dns.Msg)
		q.SetQuestion("example.org.", qtype)
		q.Id = 7
		m, err := parse(packet, q)
		if err != nil || refusal(m) != nil {
			return
		}
		out := interpret(m, "example.org", qtype, true)
		if (out.answer == nil) == (out.err == nil) {
			t.Fatalf("outcome %+v", out)
		}
		if out.ttl < minTTL || out.ttl > maxTTL {
			t.Errorf("kept for %v", out.ttl)
		}
		if out.answer == nil {
			return
		}
		names := append([]string{out.answer.Name}, out.answer.Names...)
		for _, mx := range out.answer.MX {
			if mx.Host != "." {
				names = append(names, mx.Host)
			}
		}
		for _, n := range names {
			if !ValidName(n) || n != strings.ToLower(n) {
				t.Errorf("name %q", n)
			}
		}
		if n := len(out.answer.Addrs) + len(out.answer.MX) + len(out.answer.Text) + len(out.answer.TLSA); n > maxRecords {
			t.Errorf("%d records", n)
		}
	})
}

// What the library shows of a TXT string turns back into its bytes.
func FuzzUnescape(f *testing.F) {
	f.Add([]byte("v=spf1 \"\\ \x00\xff;"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 255 {
			return
		}
		wire := append([]byte{0, 0, 16, 0, 1, 0, 0, 0, 0, byte((len(text) + 1) >> 8), byte(len(text) + 1), byte(len(text))}, text...)
		rr, _, err := dns.UnpackRR(wire, 0)
		if err != nil {
			t.Skip(err)
		}
		var b strings.Builder
		unescape(&b, rr.(*dns.TXT).Txt[0])
		if b.String() != string(text) {
			t.Errorf("%q became %q", text, b.String())
		}
	})
}
