package wire

import (
	"strings"
	"testing"
	"time"
)

func TestRequestLines(t *testing.T) {
	t.Parallel()
	at := time.Unix(1700000000, 1000)
	for _, tt := range []struct {
		r    Request
		want string
	}{
		{Request{Time: at, Table: "t", Op: Update, ID: "2a"}, "table|0.1|1700000000.000001|t|update|2a\n"},
		{Request{Time: at, Table: "t", Op: Check, Service: "domain", ID: "2a", Key: "a|b"}, "table|0.1|1700000000.000001|t|check|domain|2a|a|b\n"},
		{Request{Time: at, Table: "t", Op: Lookup, Service: "alias", ID: "2a", Key: ""}, "table|0.1|1700000000.000001|t|lookup|alias|2a|\n"},
		{Request{Time: at, Table: "t", Op: Fetch, Service: "source", ID: "2a"}, "table|0.1|1700000000.000001|t|fetch|source|2a\n"},
	} {
		got := string(tt.r.Append(nil))
		if got != tt.want {
			t.Errorf("Append(%+v) = %q, want %q", tt.r, got, tt.want)
		}
		if back, err := ParseRequest(strings.TrimSuffix(got, "\n")); err != nil || *back != tt.r {
			t.Errorf("ParseRequest(%q) = %+v, %v, want %+v", got, back, err, tt.r)
		}
	}
}

func TestBadLinesAreRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", "table", "table|0.1|1.000000|t|update", "table|0.2|1.000000|t|update|1", "table|0.1|1|t|update|1",
		"table|0.1|1.000000|t|list|alias|1", "table|0.1|1.000000|t|lookup|alias|1", "table|0.1|1.000000|t|update|a b",
	} {
		if r, err := ParseRequest(line); err == nil {
			t.Errorf("ParseRequest(%q) = %+v", line, r)
		}
	}
	for _, line := range []string{
		"", "lookup-result", "lookup-result|1", "lookup-result||found|x", "lookup-result|1|found", "lookup-result|1|found|",
		"check-result|1|found|x", "check-result|1|maybe", "update-result|1|found", "fetch-result|1|not-found|x", "list-result|1|ok",
	} {
		if r, err := ParseReply(line); err == nil {
			t.Errorf("ParseReply(%q) = %+v", line, r)
		}
	}
}

// FuzzRequest states that what parses as a question of the daemon prints back the same,
// as one line that is not much longer; that no field but the last holds a separator, and
// that the id can be sent back.
func FuzzRequest(f *testing.F) {
	for _, line := range []string{ // as daemons send them
		"table|0.1|1713795097.394049|devs|update|478ff0d2",
		"table|0.1|1713795097.394049|devs|check|netaddr|2013948b|192.168.0.7",
		"table|0.1|1713795097.394049|people|lookup|credentials|9e4ab1|alice",
		"table|0.1|1700000000.000001|t|lookup|alias|2a|a|b",
		"table|0.1|1713795097.394049|hosts|fetch|relayhost|0000002a",
		"table|0.1|1713795097.394049|people|check|auth|0000002b|alice:pass|word",
		"table|0.1|-1.999999|t|update|2a",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\n") {
			return // what is read is one line
		}
		r, err := ParseRequest(line)
		if err != nil {
			return
		}
		printed := string(r.Append(nil))
		if strings.Count(printed, "\n") != 1 || !strings.HasSuffix(printed, "\n") || len(printed) > len(line)+40 {
			t.Errorf("%q prints as %q", line, printed)
		}
		if strings.Contains(r.Table+string(r.Op)+r.Service+r.ID, "|") || len(r.ID) > 64 {
			t.Errorf("%q: %+v", line, r)
		}
		again, err := ParseRequest(strings.TrimSuffix(printed, "\n"))
		if err != nil || *again != *r {
			t.Errorf("%q: %+v, then %+v, %v", line, r, again, err)
		}
		reply := Reply{Op: r.Op, ID: r.ID, Result: Failed, Text: "no"}
		if back, err := ParseReply(strings.TrimSuffix(string(reply.Append(nil)), "\n")); err != nil || *back != reply {
			t.Errorf("the answer to %q: %+v, %v", line, back, err)
		}
	})
}

// FuzzReply states that what parses as an answer prints back as it was, and means one
// thing: a value where one was found, none where not.
func FuzzReply(f *testing.F) {
	for _, line := range []string{ // as programs send them
		"lookup-result|2a|found|a|b",
		"lookup-result|9e4ab1|found|alice:$6$rounds=5000$salt$hash",
		"update-result|478ff0d2|ok",
		"update-result|2a|error|no",
		"update-result|2a|error",
		"check-result|2013948b|found",
		"check-result|2a|not-found",
		"fetch-result|0000002a|found|smtp+tls://label@mx.example.org:587",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\n") {
			return // what is read is one line
		}
		r, err := ParseReply(line)
		if err != nil {
			return
		}
		if got := string(r.Append(nil)); got != line+"\n" && got != strings.TrimSuffix(line, "|")+"\n" {
			t.Errorf("%q prints as %q", line, got)
		}
		if wantsValue := r.Result == Found && (r.Op == Lookup || r.Op == Fetch); r.Result != Failed && wantsValue != (r.Text != "") {
			t.Errorf("%q: %+v", line, r)
		}
		if (r.Op == Update) != (r.Result == OK) && r.Result != Failed {
			t.Errorf("%q: %+v", line, r)
		}
	})
}
