package maillog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Both formats of each event's line tell the same ids, those of the event.
func TestLinesTellTheirIDs(t *testing.T) {
	t.Parallel()
	read := func(name string) []string {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	text, object := read("text.golden"), read("json.golden")
	if len(text) != len(object) {
		t.Fatalf("%d lines and %d objects", len(text), len(object))
	}
	const session, message, id = "00000000deadbeef", "5b1f0c4a", "5b1f0c4a9d8e7f60"
	for i, line := range text {
		var want IDs
		if strings.HasPrefix(line, session) {
			want.Session = session
		}
		switch {
		case strings.Contains(line, "evpid=0000000000000001 "):
			want.Message, want.Envelope = "00000000", "0000000000000001"
		case strings.Contains(line, " evpid="+id), strings.Contains(line, " for "+id+":"):
			want.Message, want.Envelope = message, id
		case strings.Contains(line, " msgid="+message):
			want.Message = message
		}
		if got := LineIDs([]byte(line)); got != want {
			t.Errorf("got %+v, want %+v of\n%s", got, want, line)
		}
		if got := LineIDs([]byte(object[i])); got != want {
			t.Errorf("got %+v, want %+v of\n%s", got, want, object[i])
		}
	}
}

func TestOtherLinesHaveNoIDs(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", " ", "{", "{}", "info: OpenSMTPD starting", "panic: 00000000deadbeef smtp connected",
		"00000000deadbeef", "00000000deadbeef ", "00000000deadbeef went away", "00000000DEADBEEF smtp connected",
		"0000000deadbeef smtp connected", "relay: Expire for 5b1f0c4a9d8e7f6: x", "relay: Expire of 5b1f0c4a9d8e7f60: x",
		`{"session":"\n"}`, `{"level":"info","message":"00000000deadbeef smtp connected"}`,
	} {
		if got := LineIDs([]byte(line)); got != (IDs{}) {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// Ids consist of digits, whatever the line.
func FuzzLineIDs(f *testing.F) {
	f.Add([]byte("00000000deadbeef mta delivery evpid=5b1f0c4a9d8e7f60 from=<>"))
	f.Add([]byte("relay: Expire for 5b1f0c4a9d8e7f60: from=<>"))
	f.Add([]byte(`{"session":"00000000deadbeef","msgid":"5b1f0c4a"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		v := LineIDs(line)
		for id, n := range map[string]int{v.Session: 16, v.Message: 8, v.Envelope: 16} {
			if id != "" && (len(id) != n || strings.Trim(id, hexDigits) != "") {
				t.Errorf("%q of %q", id, line)
			}
		}
	})
}
