package format

import (
	"errors"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func values() *Values {
	return &Values{
		Sender: smtp.Path{Local: "Bob", Domain: "Example.COM"},
		Rcpt:   smtp.Path{Local: "alice+tag", Domain: "example.org"},
		Dest:   smtp.Path{Local: "alice", Domain: "example.net"},
		User:   "alice", Home: "/home/alice",
	}
}

func TestSpecifiersExpand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"address", "x %{sender} y", "x Bob@Example.COM y"},
		{"parts", "%{rcpt.user} %{rcpt.domain} %{dest}", "alice+tag example.org alice@example.net"},
		{"names ignore case", "%{RCPT.User}", "alice+tag"},
		{"user", "%{user.username}:%{user.directory}", "alice:/home/alice"},
		{"mbox sender", "-f %{mbox.from}", "-f Bob@Example.COM"},
		{"percent signs", "100%% %d %%{sender} %", "100% %d %{sender} %"},
		{"home", "~/Mail", "/home/alice/Mail"},
		{"home only at the start", "a ~/Mail", "a ~/Mail"},
		{"missing brace leaves all as it is", "~/a %{sender} %{sender", "~/a %{sender} %{sender"},
		{"lowercase", "%{sender:lowercase}", "bob@example.com"},
		{"strip of a local part", "%{rcpt.user:strip}", "alice"},
		{"strip of an address", "%{rcpt:strip|uppercase}", "ALICE@EXAMPLE.ORG"},
		{"first character", "%{rcpt.user[0]}", "a"},
		{"last character", "%{rcpt.domain[-1]}", "g"},
		{"range", "%{rcpt.user[1:3]}", "lic"},
		{"open end", "%{rcpt.domain[-3:]}", "org"},
		{"open begin", "%{rcpt.user[:1]}", "al"},
		{"negative end leaves out the last", "%{rcpt.domain[0:-1]}", "example.or"},
		{"end is clipped", "%{dest.user[3:99]}", "ce"},
		{"begin before the start is clipped", "%{dest.user[-99:1]}", "al"},
		{"slice and modifier", "%{rcpt.user[0:2]:uppercase}", "ALI"},
		{"slice, then strip", "%{rcpt.user[3:]:strip}", "ce"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := values().Command(tt.in)
			if err != nil || got != tt.want {
				t.Errorf("%q: got %q, %v, want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestBadSpecifiersFail(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"%{}", "%{nobody}", "%{sender.name}", "%{mda}", "%{rcpt:loud}", "%{rcpt:}", "%{rcpt[]}", "%{rcpt[}",
		"%{rcpt[x]}", "%{rcpt[1:y]}", "%{rcpt[99]}", "%{rcpt[3:1]}", "%{rcpt[0]x}", "%{dest.user[0:-5]}",
		strings.Repeat("%{rcpt}", 1000), strings.Repeat("x", MaxResult+1),
	} {
		if got, err := values().Command(in); !errors.Is(err, ErrExpand) {
			t.Errorf("%.40q: got %.40q, %v, want ErrExpand", in, got, err)
		}
	}
	v := values()
	v.Rcpt.Local = strings.Repeat("x", MaxToken+1)
	if got, err := v.Command("%{rcpt.user}"); !errors.Is(err, ErrExpand) {
		t.Errorf("overlong value: got %.40q, %v, want ErrExpand", got, err)
	}
}

func TestValuesCannotReachTheShell(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ local, want, raw string }{
		{`a;rm -rf $HOME`, ":a:rm:-rf::HOME:", `"a;rm -rf $HOME"`},
		{"a`id`", "a:id:", "a`id`"},
		{"-oQ/tmp", ":oQ/tmp", "-oQ/tmp"},
		{"a\nb", ":a:b:", "\"a\nb\""},
		{`a"b\c<d>(e)&|'`, ":a::b::c:d::e:::::", `"a\"b\\c<d>(e)&|'"`},
		{"ünï", "ünï", "ünï"},
	} {
		v := &Values{Sender: smtp.Path{Local: tt.local, Domain: "x"}}
		if got, err := v.Command("%{sender}"); err != nil || got != tt.want+"@x" {
			t.Errorf("%q: got %q, %v, want %q", tt.local, got, err, tt.want+"@x")
		}
		if got, err := v.Command("%{sender:raw}"); err != nil || got != tt.raw+"@x" {
			t.Errorf("%q raw: got %q, %v, want %q", tt.local, got, err, tt.raw+"@x")
		}
	}
}

func TestNullSender(t *testing.T) {
	t.Parallel()
	v := &Values{}
	got, err := v.Command("<%{sender}%{sender.user[3:]}> %{mbox.from}")
	if want := "<> MAILER-DAEMON"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestPathStaysInItsPlace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, local, template, want string }{
		{"slash", "a/b", "/m/%{rcpt.user}", "/m/a:b"},
		{"dots alone", "..", "/m/%{rcpt.user}/x", ""},
		{"dots by two slices", ".a.", "/m/%{rcpt.user[0]}%{rcpt.user[2]}", ""},
		{"dots of the template", "a", "/m/../%{rcpt.user}", "/m/../a"},
		{"dots inside a name", "a..b", "/m/%{rcpt.user}", "/m/a..b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := &Values{Rcpt: smtp.Path{Local: tt.local, Domain: "x"}}
			got, err := v.Path(tt.template)
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("%q with %q: got %q, %v, want %q", tt.template, tt.local, got, err, tt.want)
			}
		})
	}
}

func TestWrapperHoldsTheCommand(t *testing.T) {
	t.Parallel()
	got, err := values().Wrapper("filter -u %{user.username} | %{mda}", "mail.maildir '~/$x %{sender}'")
	if want := "filter -u alice | mail.maildir '~/$x %{sender}'"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := values().Wrapper("%{mda:raw}", "x"); !errors.Is(err, ErrExpand) {
		t.Errorf("modifier of mda: got %v, want ErrExpand", err)
	}
}

// FuzzCommand: whatever template and addresses hold, expansion ends within its
// bound, and without raw no byte of an address reaches the line but the allowed.
func FuzzCommand(f *testing.F) {
	f.Add("%{rcpt.user[0:2]:uppercase} %{sender}", "alice+tag", "example.org")
	f.Add("~/x/%{dest.user[-1]:strip|lowercase}", "a;b", "[192.0.2.1]")
	f.Add("%{%{rcpt[::]}}%%{", "$(id)", "`")
	f.Add("%{rcpt:raw}", "\n", "")
	f.Fuzz(func(t *testing.T, template, local, domain string) {
		p := smtp.Path{Local: local, Domain: domain}
		v := &Values{Sender: p, Rcpt: p, Dest: p, User: local, Home: "/"}
		for _, expand := range []func(string) (string, error){v.Command, v.Path} {
			got, err := expand(template)
			if err != nil {
				continue
			}
			if len(got) > MaxResult {
				t.Fatalf("%d bytes", len(got))
			}
			if strings.Contains(strings.ToLower(template), "raw") {
				continue
			}
			for i := 0; i < len(got); i++ {
				c := got[i]
				if c < 0x80 && strings.IndexByte(template, c) < 0 &&
					strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-/=^_.@[]:", c) < 0 {
					t.Fatalf("%q with %q: byte %q in %q", template, local, c, got)
				}
			}
		}
	})
}
