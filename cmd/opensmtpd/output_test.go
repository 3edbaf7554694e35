package main

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proto"
)

func TestJournalIsToldTheSeverity(t *testing.T) {
	t.Parallel()
	for journal, want := range map[bool]string{
		true: "<4>warn: a\n<2>panic: b\n", false: "warn: a\npanic: b\n",
	} {
		var b bytes.Buffer
		o := &output{stderr: &b, severity: journal}
		if _, err := o.pipe(proto.Key).Write([]byte("<4>warn: a\npanic: b\n")); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("journal %v reads %q, want %q", journal, b.String(), want)
		}
	}
}

func TestJournalIsKnownByItsStream(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]bool{fmt.Sprintf("%d:%d", st.Dev, st.Ino): true, "1:1": false, "": false} {
		if got := isJournal(f, stream); got != want {
			t.Errorf("JOURNAL_STREAM=%q: journal %v, want %v", stream, got, want)
		}
	}
}
