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

// FuzzRequest states that what parses prints back the same.
func FuzzRequest(f *testing.F) {
	f.Add("table|0.1|1700000000.000001|t|lookup|alias|2a|a|b")
	f.Add("table|0.1|-1.999999|t|update|2a")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseRequest(line)
		if err != nil {
			return
		}
		again, err := ParseRequest(strings.TrimSuffix(string(r.Append(nil)), "\n"))
		if err != nil || *again != *r {
			t.Errorf("%q: %+v, then %+v, %v", line, r, again, err)
		}
	})
}

// FuzzReply states that what parses prints back as it was.
func FuzzReply(f *testing.F) {
	f.Add("lookup-result|2a|found|a|b")
	f.Add("update-result|2a|error|no")
	f.Add("check-result|2a|not-found")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseReply(line)
		if err != nil {
			return
		}
		if got := string(r.Append(nil)); got != line+"\n" && got != strings.TrimSuffix(line, "|")+"\n" {
			t.Errorf("%q prints as %q", line, got)
		}
	})
}
