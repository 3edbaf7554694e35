//go:build system

package system

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ways are the ways for mail between two servers; each has a domain, example.org
// below its name, and the words of Received fields on both sides.
var ways = []struct{ name, relay, with string }{
	{"plain", `host "smtp+notls://$host:2025"`, "ESMTP"},
	{"starttls", `host "smtp+tls://$host:2025" ca site`, "ESMTPS"},
	{"implicit", `host "smtps://$host:2465" ca site`, "ESMTPS"},
	{"auth", `host "smtp+tls://peer@$host:2587" auth <secrets> ca site`, "ESMTPSA"},
}

// betweenPeers gives mail that comes in on port 25 to another server by all ways, and
// delivers what that one sends back.
const betweenPeers = `pki site cert "$dir/mx.crt"
pki site key "$dir/mx.key"
ca site cert "$dir/mx.crt"
smtp max-message-size 40M
table secrets { peer = "alice:secret" }
table passwords { alice = "$6$systemtest$BgW/V5BrozDDL8edEHuJWIkhz/Ku38EWiYXP/Pb.0SSxqmo0QzGsmzjTgD2ZnpifBSwv7fLfvwwLEFHdEbWpx1" }
listen on $host hostname mx.example.org tag "entry"
listen on $host port 3025 tls pki site hostname mx.example.org
listen on $host port 3465 smtps pki site hostname mx.example.org
listen on $host port 3587 tls-require pki site auth <passwords> hostname mx.example.org
listen on socket
action "deliver" maildir "$dir/home/%{user.username}/Maildir"
`

// A message goes from our daemon to another server and back, by each way.
func TestMailGoesToAndFromOtherServersUnchanged(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*daemon){"Postfix": (*daemon).startPostfix, "Exim": (*daemon).startExim} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := betweenPeers
			for _, w := range ways {
				domain := w.name + ".example.org"
				conf += fmt.Sprintf("action %q relay %s\nmatch tag \"entry\" from any for domain %q action %q\n"+
					"match from any for domain %q action \"deliver\"\n", w.name, w.relay, domain, w.name, domain)
			}
			d := newDaemon(t, conf)
			d.certify()
			d.start()
			start(d)
			bodies := awkwardBodies()
			for i, text := range bodies {
				for _, w := range ways {
					rcpt := "alice@" + w.name + ".example.org"
					d.send(fmt.Sprintf("From: <sender@example.net>\nTo: <%s>\nSubject: %s-%d\nMIME-Version: 1.0\n"+
						"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n%s", rcpt, w.name, i, text), rcpt)
				}
			}
			mails := d.mail("alice", len(bodies)*len(ways))
			for i, text := range bodies {
				for _, w := range ways {
					cameBack(t, mails, fmt.Sprintf("%s-%d", w.name, i), w.with, text)
				}
			}
		})
	}
}

// awkwardBodies are texts with what is mangled on the way now and then.
func awkwardBodies() []string {
	long := strings.Repeat("long line ", 99) + "12345678" // 998 bytes
	small := "Gr\xc3\xbc\xc3\x9fe, \xe9 in Latin 1\n.\n..\n.leading dot\n\n\tblanks at the end  \t\n" + long + "\nFrom here\n\n=20 =\n\n\n"
	return []string{small, strings.Repeat(long[:75]+"\n", 1<<20/76) + small}
}

// unchanged looks for the message with a subject, which must have this body, and
// returns its header.
func unchanged(t *testing.T, mails []string, subject, want string) (head string, found bool) {
	t.Helper()
	at := slices.IndexFunc(mails, func(m string) bool { return strings.Contains(m, "\nSubject: "+subject+"\n") })
	if at < 0 {
		t.Errorf("there is no message %s", subject)
		return "", false
	}
	head, got, _ := strings.Cut(mails[at], "\n\n")
	if got != want {
		n := 0
		for n < len(got) && n < len(want) && got[n] == want[n] {
			n++
		}
		t.Errorf("%s: the body of %d bytes arrived with %d, different from byte %d on:\n%q\nwant\n%q", subject, len(want), len(got), n,
			got[n:min(len(got), n+100)], want[n:min(len(want), n+100)])
	}
	return head, true
}

// cameBack looks at what became of the message with a subject.
func cameBack(t *testing.T, mails []string, subject, with, want string) {
	t.Helper()
	head, found := unchanged(t, mails, subject, want)
	if !found {
		return
	}
	// The youngest field is ours, of the last hop; the next one the other server's.
	protocol := regexp.MustCompile(`(?i)\bwith (\S+)`)
	var seen []string
	for _, field := range strings.Split(head, "\nReceived: ")[1:] {
		if m := protocol.FindStringSubmatch(field); m != nil {
			seen = append(seen, strings.ToUpper(m[1]))
		}
	}
	if len(seen) != 3 || seen[0] != with || seen[1] != with {
		t.Errorf("%s: the hops were %v, want %s twice and ESMTP:\n%s", subject, seen, with, head)
	}
}
