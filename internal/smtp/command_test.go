package smtp

import (
	"errors"
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     Command
	}{
		{"any case", "eHlO c.test", Command{EHLO, "c.test"}},
		{"blanks around the argument", "HELO \t c.test  ", Command{HELO, "c.test"}},
		{"MAIL", "MAIL FROM:<a@b> SIZE=1", Command{MAIL, "<a@b> SIZE=1"}},
		{"blank behind the colon", "rcpt to: <a@b>", Command{RCPT, "<a@b>"}},
		{"blank before the colon", "RCPT TO :<a@b>", Command{Unknown, "RCPT TO :<a@b>"}},
		{"MAIL alone", "MAIL", Command{Unknown, "MAIL"}},
		{"longer word", "DATAX", Command{Unknown, "DATAX"}},
		{"shorter word", "DAT", Command{Unknown, "DAT"}},
		{"BDAT", "BDAT 10 LAST", Command{BDAT, "10 LAST"}},
		{"empty", "", Command{Unknown, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ParseCommand([]byte(tt.in)); got != tt.want {
				t.Errorf("%q: got %+v, want %+v", tt.in, got, tt.want)
			}
		})
	}
}

// FuzzCommand: what parses prints back the same, and no parameter parser panics
// or refuses without a reply.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"EHLO x", "MAIL FROM:<a@b> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=x+20y AUTH=<>", "HELO\t\tx ",
		"RCPT TO:<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c", "NOOP", "", "  quit", "MAIL FROM:", "DATA  ",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := ParseCommand([]byte(s))
		if again := ParseCommand([]byte(c.String())); c.Verb != Unknown && again != c {
			t.Errorf("%q is %+v, prints as %q, which is %+v", s, c, c, again)
		}
		if IsCommand([]byte(s), MAIL) != (c.Verb == MAIL) {
			t.Errorf("%q is %+v, IsCommand disagrees", s, c)
		}
		_, err1 := ParseMailParams(c.Arg, true)
		_, err2 := ParseRcptParams(c.Arg, true)
		for _, err := range []error{err1, err2} {
			if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Code < 500 || e.Code > 599) {
				t.Errorf("%q: error %v is no reply", s, err)
			}
		}
	})
}

func TestMailParams(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     MailParams
		reply    string // of the refusal
	}{
		{"none", "", MailParams{}, ""},
		{"all", " size=12 BODY=8bitmime SMTPUTF8 REQUIRETLS RET=full ENVID=a+2Bb AUTH=x+40y",
			MailParams{12, true, true, true, "FULL", "a+2Bb"}, ""},
		{"7BIT", "BODY=7BIT", MailParams{}, ""},
		{"size beyond all bounds", "SIZE=99999999999999999999", MailParams{Size: 1<<63 - 1}, ""},
		{"size of too many digits", "SIZE=000000000000000000001", MailParams{}, "501 5.5.4 Invalid command arguments: invalid value: SIZE=000000000000000000001"},
		{"negative size", "SIZE=-1", MailParams{}, "501 5.5.4 Invalid command arguments: invalid value: SIZE=-1"},
		{"twice", "SIZE=1 SIZE=2", MailParams{Size: 1}, "503 5.5.4 Invalid command arguments: duplicate option SIZE=2"},
		{"REQUIRETLS with a value", "REQUIRETLS=1", MailParams{}, "503 5.5.4 Invalid command arguments: Unsupported option REQUIRETLS=1"},
		{"binary", "BODY=BINARYMIME", MailParams{}, "501 5.5.4 Invalid command arguments: invalid value: BODY=BINARYMIME"},
		{"flag with a value", "SMTPUTF8=yes", MailParams{}, "503 5.5.4 Invalid command arguments: Unsupported option SMTPUTF8=yes"},
		{"RET", "RET=SOME", MailParams{Ret: "SOME"}, "501 5.5.4 Invalid command arguments: invalid value: RET=SOME"},
		{"long ENVID", "ENVID=" + strings.Repeat("x", 101), MailParams{},
			"503 5.5.4 Invalid command arguments: option too large, truncated: ENVID=" + strings.Repeat("x", 58)},
		{"ENVID that is no xtext", "ENVID=a+zz", MailParams{EnvID: "a+zz"}, "501 5.5.4 Invalid command arguments: invalid value: ENVID=a+zz"},
		{"unknown", "MT-PRIORITY=3", MailParams{}, "503 5.5.4 Invalid command arguments: Unsupported option MT-PRIORITY=3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseMailParams(tt.in, true)
			reply := ""
			if e, ok := errors.AsType[*Error](err); ok {
				reply = e.Reply()
			}
			if got != tt.want || reply != tt.reply {
				t.Errorf("%q: got %+v, %q; want %+v, %q", tt.in, got, reply, tt.want, tt.reply)
			}
		})
	}
}

func TestRcptParams(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		want  RcptParams
		reply string
	}{
		{"NOTIFY=success,FAILURE,delay ORCPT=rfc822;a+2Bb@c", RcptParams{Notify{Success: true, Failure: true, Delay: true}, "rfc822;a+2Bb@c"}, ""},
		{"NOTIFY=NEVER", RcptParams{Notify: Notify{Never: true}}, ""},
		{"NOTIFY=NEVER,SUCCESS", RcptParams{}, "553 5.5.4 NOTIFY option NEVER cannot be combined with other options"},
		{"NOTIFY=", RcptParams{}, "501 5.5.4 NOTIFY option syntax error"},
		{"ORCPT=rfc822", RcptParams{}, "553 5.5.4 ORCPT address syntax error"},
		{"ORCPT=;a", RcptParams{}, "553 5.5.4 ORCPT address syntax error"},
		{"ORCPT=rfc822;" + strings.Repeat("a", 494), RcptParams{}, "553 5.5.4 ORCPT address syntax error"},
		{"NOTIFY=DELAY NOTIFY=DELAY", RcptParams{Notify: Notify{Delay: true}}, "503 5.5.4 Duplicate option NOTIFY=DELAY"},
		{"RRVS=x", RcptParams{}, "503 5.5.4 Unsupported option RRVS=x"},
	} {
		got, err := ParseRcptParams(tt.in, true)
		reply := ""
		if e, ok := errors.AsType[*Error](err); ok {
			reply = e.Reply()
		}
		if got != tt.want || reply != tt.reply {
			t.Errorf("%q: got %+v, %q; want %+v, %q", tt.in, got, reply, tt.want, tt.reply)
		}
	}
	if _, err := ParseRcptParams("NOTIFY=NEVER", false); err == nil {
		t.Error("NOTIFY is taken where DSN is off")
	}
}

// FuzzXtext: what is encoded decodes to the same.
func FuzzXtext(f *testing.F) {
	f.Add("a+b=c\r\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := DecodeXtext(EncodeXtext(s)); !ok || got != s {
			t.Errorf("%q: encoded %q, decoded %q, %v", s, EncodeXtext(s), got, ok)
		}
		if got, ok := DecodeXtext(s); ok && len(got) > len(s) {
			t.Errorf("%q grows to %q", s, got)
		}
	})
}

func TestReplyOnTheWire(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		code     int
		enhanced EnhancedCode
		text     string
		want     string
	}{
		{"one line", 250, EnhancedCode{2, 0, 0}, "Ok", "250 2.0.0 Ok\r\n"},
		{"without enhanced code", 220, EnhancedCode{}, "mx", "220 mx\r\n"},
		{"several lines, each with the code", 550, EnhancedCode{5, 7, 25}, "a\nb", "550-5.7.25 a\r\n550 5.7.25 b\r\n"},
		{"no line is injected", 550, EnhancedCode{5, 0, 0}, "a\r\n250 ok\x00", "550-5.0.0 a?\r\n550 5.0.0 250 ok?\r\n"},
		{"long text is cut", 550, EnhancedCode{}, strings.Repeat("x", 1000), "550 " + strings.Repeat("x", 490) + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendReply(nil, tt.code, tt.enhanced, tt.text)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
