package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proto"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMapsAreMadeAndPrinted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		args       []string
		dump       string
	}{
		{"map", "# c\nA@x.test  one\nb: two words\n", nil, "a@x.test\tone\nb\ttwo words\n"},
		{"list", "x.test\ny.test\n", nil, "x.test\ny.test\n"},
		{"set of what looks like a map", "a b\nc d\n", []string{"-t", "set"}, "a b\nc d\n"},
		{"aliases", "root: alice, \"|prog a,b\"\n", []string{"-t", "aliases", "-d", "hash"}, "root\talice, \"|prog a,b\"\n"},
		{"empty", "", nil, ""},
		{"empty list as aliases", "# @list\n", []string{"-t", "aliases"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := write(t, dir, "in", tt.text)
			if res := run(t, dir, "", "makemap", append(tt.args, path)...); res != (result{}) {
				t.Fatalf("got %+v", res)
			}
			if res, want := run(t, dir, "", "makemap", "-U", path+".db"), (result{0, tt.dump, ""}); res != want {
				t.Errorf("got %+v, want %+v", res, want)
			}
		})
	}
}

func TestMakemapReadsStandardInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{{"hash", dir + "/one"}, {"-o", dir + "/one.db", "-"}} {
		if res := run(t, dir, "a b\n", "makemap", args...); res != (result{}) {
			t.Fatalf("%q: got %+v", args, res)
		}
		if res, want := run(t, dir, "", "makemap", "-U", dir+"/one.db"), (result{0, "a\tb\n", ""}); res != want {
			t.Errorf("%q: got %+v, want %+v", args, res, want)
		}
	}
}

func TestBadMapsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		args       []string
		want       string // behind the path
	}{
		{"duplicate", "a x\nb y\nA z\n", nil, ":3: duplicate entry for A\n"},
		{"duplicate in a set", "a b\na b\n", []string{"-t", "set"}, ":2: duplicate entry for a b\n"},
		{"no value", "a x\nb\n", nil, ":2: invalid map entry"},
		{"aliases without value", "a\nb\n", []string{"-t", "aliases"}, ":1: invalid entry: no value\n"},
		{"alias that is none", "a: b\nc: d@e_f@g\n", []string{"-t", "aliases"}, ":2: invalid entry: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := write(t, dir, "in", tt.text)
			res := run(t, dir, "", "makemap", append(tt.args, path)...)
			if res.status != 1 || !strings.HasPrefix(res.stderr, "makemap: "+path+tt.want) {
				t.Errorf("got %+v, want %s", res, tt.want)
			}
			if _, err := os.Stat(path + ".db"); err == nil {
				t.Error("a database was written")
			}
		})
	}
	for _, args := range [][]string{{}, {"-t", "map", "x"}, {"-d", "x", "x"}, {"a", "b"}, {"-"}, {"-q"}, {"/nonexistent/x"}} {
		if res := run(t, t.TempDir(), "", "makemap", args...); res.status != 1 || res.stderr == "" {
			t.Errorf("%q: got %+v", args, res)
		}
	}
}

func TestNewaliases(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := newDaemon(t, dir)
	answer(d, proto.UpdateTable, ok)
	aliases := write(t, dir, "aliases", "root: alice\npostmaster: root\n")
	conf := func(table string) {
		write(t, dir, "smtpd.conf", table+"\nlisten on socket\naction \"x\" maildir alias <aliases>\nmatch from local for local action \"x\"\n")
	}
	conf("table aliases file:" + aliases)
	want := result{0, aliases + ": 2 aliases\n", ""}
	for _, args := range [][]string{{"newaliases"}, {"sendmail", "-bi"}, {"newaliases", "-f", dir + "/smtpd.conf"}} {
		if res := run(t, dir, "", args[0], args[1:]...); res != want {
			t.Errorf("%q: got %+v, want %+v", args, res, want)
		}
	}
	if calls := strings.Join(d.made(), "|"); calls != strings.Repeat("|lookup.update-table{Name:aliases}", 3)[1:] {
		t.Errorf("calls %s", calls)
	}
	conf("table aliases db:" + aliases + ".db")
	if res, want := run(t, dir, "", "newaliases"), (result{0, aliases + ".db: 2 aliases\n", ""}); res != want {
		t.Errorf("got %+v, want %+v", res, want)
	}
	if res, want := run(t, dir, "", "makemap", "-U", aliases+".db"), (result{0, "root\talice\npostmaster\troot\n", ""}); res != want {
		t.Errorf("got %+v, want %+v", res, want)
	}
	write(t, dir, "aliases", "root: (\n")
	if res := run(t, dir, "", "newaliases"); res.status != 1 || !strings.HasPrefix(res.stderr, "newaliases: "+aliases+":1: invalid entry: ") {
		t.Errorf("got %+v", res)
	}
	write(t, dir, "smtpd.conf", "listen\n")
	if res := run(t, dir, "", "newaliases"); res.status != 1 || !strings.Contains(res.stderr, "smtpd.conf:1: ") {
		t.Errorf("got %+v", res)
	}
}

func TestNewaliasesWithoutADaemonOrTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "smtpd.conf", "listen on socket\nmatch from any for any reject\n")
	write(t, dir, "aliases", "root: alice\n")
	if res, want := run(t, dir, "", "newaliases"), (result{0, dir + "/aliases: 1 aliases\n", ""}); res != want {
		t.Errorf("got %+v, want %+v", res, want)
	}
}
