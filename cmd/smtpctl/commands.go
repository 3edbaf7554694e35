package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// command is one form of the command line. Words in lower case may be shortened;
// those in upper case stand for what kinds names.
type command struct {
	form string
	help string
	run  func(ctx context.Context, p *program, args []string) error
}

// kinds are the words that stand for something, and what they take.
var kinds = map[string]func(string) bool{
	"EVPID":   isEnvelopeID,
	"MSGID":   isMessageID,
	"TARGET":  func(s string) bool { return isEnvelopeID(s) || isMessageID(s) },
	"TRACE":   func(s string) bool { return proto.Subsystem(s) != "" },
	"FILE":    func(string) bool { return true },
	"STRING":  func(string) bool { return true },
	"ADDRESS": func(string) bool { return true },
	"DOMAIN":  func(string) bool { return true },
	"NAME":    func(string) bool { return true },
	"NUMBER":  isNumber,
}

// placeholders are how kinds are shown.
var placeholders = map[string]string{"EVPID": "<evpid>", "MSGID": "<msgid>", "TARGET": "<evpid|msgid>"}

// commands lists every form.
func commands() []command {
	return []command{
		{"config convert", "print smtpd.conf of before 6.4 in today's language", convert},
		{"config convert FILE", "", convert},
		{"discover TARGET", "schedule what was put into the spool by hand", manage("discover", "discovered")},
		{"encrypt", "hash each line of standard input for a password table", encryptLines},
		{"encrypt STRING", "hash a password for a password table", encryptString},
		{"help", "show this list", help},
		{"log brief", "stop logging detail", logLevel(false)},
		{"log verbose", "log detail", logLevel(true)},
		{"monitor", "show what happens each second", monitor},
		{"pause envelope TARGET", "stop attempts to deliver", manage("pause", "paused")},
		{"pause envelope all", "", manage("pause", "paused")},
		{"pause mda", "stop local deliveries", hold("mda", true)},
		{"pause mta", "stop relaying", hold("mta", true)},
		{"pause mta from ADDRESS for DOMAIN", "stop relaying from an address to a domain", pauseRoute("pause")},
		{"pause smtp", "stop accepting connections", holdSMTP(true)},
		{"reload", "read the configuration again", reload},
		{"remove TARGET", "delete without telling the sender", manage("remove", "removed")},
		{"remove all", "", manage("remove", "removed")},
		{"resume envelope TARGET", "undo pause", manage("resume", "resumed")},
		{"resume envelope all", "", manage("resume", "resumed")},
		{"resume mda", "start local deliveries again", hold("mda", false)},
		{"resume mta", "start relaying again", hold("mta", false)},
		{"resume mta from ADDRESS for DOMAIN", "undo pause mta from", pauseRoute("resume")},
		{"resume route NUMBER", "use a disabled route again", resumeRoute},
		{"resume smtp", "accept connections again", holdSMTP(false)},
		{"schedule TARGET", "try to deliver now", manage("schedule", "scheduled")},
		{"schedule all", "", manage("schedule", "scheduled")},
		{"show envelope EVPID", "print an envelope", showEnvelope},
		{"show filters", "tell how filter processes are doing", showFilters},
		{"show hosts", "list remote addresses", showRelaying("hosts")},
		{"show hoststats", "list the last word of each domain", showRelaying("hoststats")},
		{"show message TARGET", "print a message", showMessage},
		{"show mta paused", "list what pause mta from stopped", showRelaying("paused")},
		{"show queue", "list the queue", showQueue},
		{"show queue MSGID", "list the envelopes of a message", showQueue},
		{"show relays", "list next hops with mail", showRelaying("relays")},
		{"show routes", "list ways to remote addresses", showRelaying("routes")},
		{"show stats", "print counters", showStats},
		{"show status", "tell what runs and what is paused", showStatus},
		{"show tlsrpt", "tell how TLS with other hosts went", showTLSReport},
		{"spf walk", "print who may send mail of the domains read", spfWalk},
		{"stop", "end the service", stop},
		{"trace TRACE", "log the detail of a subsystem", trace(true)},
		{"untrace TRACE", "no longer log the detail of a subsystem", trace(false)},
		{"update table NAME", "read a table again", updateTable},
	}
}

// match finds the command that words name, with the arguments in them; or, when
// there is none, the words that could stand where understanding ended.
func match(words []string) (c *command, args []string, next []string) {
	candidates := commands()
	for i, word := range words {
		rest, value := narrow(candidates, i, word)
		if len(rest) == 0 {
			return nil, nil, possibilities(candidates, i)
		}
		if value {
			args = append(args, word)
		} else if strings.Fields(rest[0].form)[i] == "all" {
			args = append(args, "all")
		}
		candidates = rest
	}
	for i := range candidates {
		if len(strings.Fields(candidates[i].form)) == len(words) {
			return &candidates[i], args, nil
		}
	}
	return nil, nil, possibilities(candidates, len(words))
}

// narrow returns the candidates that have word as their word i: the whole word, or
// else a unique prefix, or else a value.
func narrow(candidates []command, i int, word string) (rest []command, value bool) {
	var name string // the literal word meant
	unique := true
	for _, c := range candidates {
		f := strings.Fields(c.form)
		if i >= len(f) || kinds[f[i]] != nil || word == "" || !strings.HasPrefix(f[i], word) {
			continue
		}
		if f[i] == word {
			name, unique = word, true
			break
		}
		unique = unique && (name == "" || name == f[i])
		name = f[i]
	}
	if name != "" && !unique {
		return nil, false
	}
	for _, c := range candidates {
		f := strings.Fields(c.form)
		if i >= len(f) {
			continue
		}
		if name != "" && f[i] == name {
			rest = append(rest, c)
		} else if kind := kinds[f[i]]; name == "" && kind != nil && kind(word) {
			rest, value = append(rest, c), true
		}
	}
	return rest, value
}

// possibilities returns what may stand as word i.
func possibilities(candidates []command, i int) (out []string) {
	for _, c := range candidates {
		f := strings.Fields(c.form)
		words := []string{"<end of line>"}
		if i < len(f) {
			words[0] = f[i]
		}
		if words[0] == "TRACE" {
			words = proto.Subsystems
		} else if kinds[words[0]] != nil {
			shown, ok := placeholders[words[0]]
			if !ok {
				shown = "<" + strings.ToLower(words[0]) + ">"
			}
			words[0] = shown
		}
		for _, word := range words {
			if !slices.Contains(out, word) {
				out = append(out, word)
			}
		}
	}
	return out
}

// help lists the commands.
func help(_ context.Context, p *program, _ []string) error {
	fmt.Fprint(p.stdout, usageText, "\n")
	for _, c := range commands() {
		if c.help != "" {
			fmt.Fprintf(p.stdout, "  %-24s %s\n", c.form, c.help)
		}
	}
	return nil
}

// Digits of the ids of envelopes and messages.
const (
	envelopeDigits = 16
	messageDigits  = 8
)

func isEnvelopeID(s string) bool {
	id, ok := hexID(s, envelopeDigits)
	return ok && uint32(id) != 0 && id>>32 != 0
}

func isMessageID(s string) bool {
	id, ok := hexID(s, messageDigits)
	return ok && id != 0
}

func hexID(s string, digits int) (uint64, bool) {
	if len(s) != digits {
		return 0, false
	}
	id, err := strconv.ParseUint(s, 16, 64)
	return id, err == nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 63)
	return err == nil
}

// target reads what match took for TARGET or all: all is 0, a message has a zero
// lower half.
func target(s string) envelope.ID {
	if s == "all" {
		return 0
	}
	id, _ := strconv.ParseUint(s, 16, 64)
	if len(s) == messageDigits {
		return envelope.NewID(envelope.MsgID(id), 0)
	}
	return envelope.ID(id)
}

// oneLine returns text with control characters replaced, so that it cannot steer a
// terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
