package proc

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proto"
)

func TestLineCarriesItsSeverityAndStaysOneLine(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := NewLog(&b, proto.Queue, true, false)
	l.Debugf("not asked for")
	l.Tracef("smtp", "not asked for")
	l.Infof("one %s", "two")
	l.Warnf("from a stranger: %s", "x\n<2>forged\r\x1b[2J\x7f\t.")
	l.Critf("bad")
	l.SetVerbose(proto.VerboseRequest{Debug: true, Trace: []string{"smtp"}})
	l.Debugf("now")
	l.Tracef("smtp", "traced")
	l.Tracef("dns", "not traced")
	l.WriteLine([]byte("finished"))
	l.Flush()
	want := "<6>info: one two\n<4>warn: from a stranger: x <2>forged ?[2J? .\n<2>bad\n<7>debug: now\n<7>smtp: traced\n<6>finished\n"
	l.Flush()
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestLineInJSONIsAnObject(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := NewLog(&b, proto.Queue, false, true)
	l.Warnf("a \"quoted\"\n<2>word \xff")
	l.Flush()
	line, rest, _ := strings.Cut(b.String(), "\n")
	var v struct{ Time, Level, Process, Message string }
	if err := json.Unmarshal([]byte(line), &v); err != nil || rest != "" {
		t.Fatalf("%q: %v, then %q", line, err, rest)
	}
	if v.Time == "" || v.Level != "warn" || v.Process != "queue" || v.Message != "warn: a \"quoted\"\n<2>word \ufffd" {
		t.Errorf("got %+v", v)
	}
}
