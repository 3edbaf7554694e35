package submit

import (
	"reflect"
	"strings"
	"testing"
)

func TestCommandLines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, args string
		want       Command
	}{
		{"recipients", "a b", Command{Mode: 'm', Request: Request{Recipients: []string{"a", "b"}}}},
		{"cron", "-FCronDaemon -i -B8BITMIME -oem root", Command{Mode: 'm', Request: Request{FullName: "CronDaemon", Recipients: []string{"root"}}}},
		{"mutt", "-oem -oi -f m@x.test -- a b", Command{Mode: 'm', Request: Request{Sender: "m@x.test", Recipients: []string{"a", "b"}}}},
		{"mailx", "-i -r x@y a", Command{Mode: 'm', Request: Request{Sender: "x@y", Recipients: []string{"a"}}}},
		{"header, verbose", "-tv -S", Command{Mode: 'm', Verbose: true, NoSpool: true, Request: Request{FromHeader: true, Recipients: []string{}}}},
		{"DSN", "-N never -R hdrs -V id a", Command{Mode: 'm', Request: Request{Notify: "never", Ret: "hdrs", EnvelopeID: "id", Recipients: []string{"a"}}}},
		{"those of other systems", "-Am -bm -em -h 3 -L l -m -n -O a=b -p x -U -X f -C c -G -d5 -x a", Command{Mode: 'm', Request: Request{Recipients: []string{"a"}}}},
		{"queue run", "-q15m", Command{Mode: 'm', RunQueue: true, Request: Request{Recipients: []string{}}}},
		{"queue run once", "-q a", Command{Mode: 'm', RunQueue: true, Request: Request{Recipients: []string{"a"}}}},
		{"stdio", "-bs", Command{Mode: 's', Request: Request{Recipients: []string{}}}},
		{"newaliases", "-bi", Command{Mode: 'i', Request: Request{Recipients: []string{}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseArgs(strings.Fields(tt.args))
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("ParseArgs(%s) = %+v, %v; want %+v", tt.args, got, err, tt.want)
			}
		})
	}
	if c, err := ParseArgs([]string{"-f", "", "a"}); err != nil || c.Sender != "<>" {
		t.Errorf("empty -f gives %q, %v; want the null sender", c.Sender, err)
	}
}

func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-J", "-Z a", "-f", "-bd", "-bt a", "-bxy"} {
		if c, err := ParseArgs(strings.Fields(args)); err == nil {
			t.Errorf("ParseArgs(%s) = %+v, want an error", args, c)
		}
	}
}
