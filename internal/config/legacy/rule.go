package legacy

import (
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
)

// rule is an accept or reject line.
type rule struct {
	at     tok
	accept bool

	tag, sender, recipient string // conditions as to be written

	auth string // "", "auth" or "!auth": the condition authenticated
	from from
	dest []string // what follows "match ... ", one line for each

	alias, virtual, userbase string // tables
	virtualAt                tok

	action string // method and options, without those of expansion
	base   string // of the action's name
	relay  bool
	ttl    string
	global string // the ttl in force at this line
}

// from is where mail must come from.
type from struct {
	text string // any, local or src TABLE
	not  bool
	// authed says that the test held for authenticated clients: it was made with the
	// word "local" in place of their address.
	authed bool
}

// rule reads what follows accept and reject.
func (r *reader) rule(accept bool) {
	tr, st := r.tr, r.st
	u := &rule{at: st.toks[0], accept: accept, from: from{text: "local", authed: true}, global: tr.ttl}
	seen := make(map[string]bool)
	for !r.atEnd() {
		r.rulePart(u, seen)
	}
	if r.failed {
		return
	}
	if len(u.dest) == 0 {
		u.dest = []string{"for local"}
	}
	if !r.judge(u, seen) {
		return
	}
	tr.later(func() { tr.writeRule(st, u) })
}

// rulePart reads one condition or part of the action.
func (r *reader) rulePart(u *rule, seen map[string]bool) {
	t := r.peek()
	what := t.Text
	switch {
	case t.is("!"):
		r.take()
		if !r.accept("authenticated") {
			r.unexpected("authenticated")
		}
		u.auth, what = "!auth", "authenticated"
	case r.accept("authenticated"):
		u.auth = "auth"
	case r.accept("tagged"):
		not := r.not()
		tag := r.str("a tag")
		r.tr.localTag = r.tr.localTag || tag.Text == "local"
		u.tag = not + "tag " + tag.render(nil)
	case r.accept("on"):
		at := r.str("an interface or a tag")
		r.tr.onTags[at.Text], what = true, "tag"
		u.tag = "tag " + at.render(nil)
	case r.accept("tag"):
		u.tag = "tag " + r.str("a tag").render(nil)
	case r.accept("from"):
		r.from(u)
	case r.accept("sender"):
		u.sender = r.not() + "mail-from " + r.table("a table", false).text
	case r.accept("recipient"):
		u.recipient = r.not() + "rcpt-to " + r.table("a table", false).text
	case r.accept("for"):
		r.destination(u)
	case r.accept("alias"):
		u.alias = r.table("a table", true).text
	case t.word("virtual"):
		u.virtualAt = r.take()
		u.virtual = r.table("a table", true).text
	case r.accept("userbase", "users"):
		what, u.userbase = "userbase", r.table("a table", true).text
	case !u.accept:
		r.unexpected("a condition: authenticated, for, from, recipient, sender or tagged")
	case r.accept("expire"):
		u.ttl = r.str("a delay like 4d").render(nil)
	case r.accept("forward-only"):
		u.action, u.base, what = "forward-only", "forward", "action"
	case r.accept("deliver"):
		what = "action"
		r.deliver(u)
	case r.accept("relay"):
		what = "action"
		r.relay(u)
	default:
		r.unexpected("a condition, deliver or relay")
	}
	r.once(seen, t, what)
}

// not reads an exclamation mark.
func (r *reader) not() string {
	if r.acceptPunct("!") {
		return "!"
	}
	return ""
}

// judge checks a rule as a whole.
func (r *reader) judge(u *rule, seen map[string]bool) bool {
	switch {
	case u.accept && !seen["action"]:
		r.fail(u.at.Pos, "the rule says neither deliver, relay nor forward-only: write what to do with the mail")
	case u.alias != "" && u.virtual != "":
		r.fail(u.at.Pos, "alias and virtual exclude each other: remove one")
	case u.relay && u.alias != "":
		r.fail(u.at.Pos, "alias has no effect on mail that is relayed, and was refused: remove it")
	case u.relay && u.recipient != "" && u.virtualAt.Text != "":
		r.fail(u.virtualAt.Pos, "virtual of a relay is the list of its recipients, so recipient cannot be given as well: remove one")
	case u.relay && u.userbase != "":
		r.fail(u.at.Pos, "userbase has no effect on mail that is relayed, and was refused: remove it")
	}
	return !r.failed
}

// from reads what follows from.
func (r *reader) from(u *rule) {
	f := from{not: r.acceptPunct("!")}
	switch {
	case r.accept("any", "all"):
		f.text, f.authed = "any", true
	case r.accept("local"):
		f.text, f.authed = "local", true
	default:
		if r.peek().word("source") {
			r.take()
		}
		t := r.table("any, local, or source and a table", false)
		f.text, f.authed = "src "+t.text, t.holds("local")
	}
	if f.not {
		f.authed = !f.authed
	}
	u.from = f
}

// destination reads what follows for: one condition, or several in braces.
func (r *reader) destination(u *rule) {
	if !r.acceptPunct("{") {
		u.dest = append(u.dest, r.oneDestination(u))
		return
	}
	for !r.acceptPunct("}") && !r.failed {
		u.dest = append(u.dest, r.oneDestination(u))
		for r.acceptPunct(",") {
		}
	}
}

func (r *reader) oneDestination(u *rule) string {
	not := r.not()
	text := ""
	switch t := r.take(); {
	case t.word("any", "all"):
		text = "for any"
	case t.word("local"):
		text = "for local"
	case t.word("domain"):
		text = "for domain " + r.table("a domain or a table", false).text
	case t.word("virtual"):
		// A table of virtual users was a list of their domains too.
		m := r.table("a map", true)
		if m.kind == config.List {
			r.fail(m.pos, "virtual needs a map of its users and domains: write \"virtual map NAME\"")
		}
		u.virtual, u.virtualAt, text = m.text, tok{}, "for domain "+m.text
	case t.word("network"):
		r.fail(t.Pos, "for network cannot be translated: no mail ever matched it; remove the rule")
	default:
		r.at--
		r.unexpected("any, domain, local or virtual")
	}
	if r.accept("alias") {
		u.alias = r.table("a table", true).text
	}
	return not + text
}

// deliver reads what follows deliver.
func (r *reader) deliver(u *rule) {
	if !r.accept("to") {
		r.unexpected("to")
	}
	user := true
	switch t := r.take(); {
	case t.word("mbox"):
		u.action, u.base, user = "mbox", "mbox", false
		if path := r.peek(); path.Kind == config.Quoted {
			r.take()
			if !strings.HasSuffix(path.Text, "/mail/%u") {
				r.fail(path.Pos, "mbox with a path of one's own cannot be translated: mbox delivers to the system's mailbox; remove the path, or write maildir or mda")
			}
		}
	case t.word("maildir"):
		u.action, u.base = "maildir", "maildir"
		if next := r.peek(); next.str() && !(next.Kind == config.Word && among(next.Text, optionWords)) {
			u.action += " " + r.format(r.take())
		}
	case t.word("lmtp"):
		u.action, u.base = "lmtp "+r.str("host:port, or the path of a socket in quotes").render(nil), "lmtp"
		if r.accept("rcpt-to") {
			u.action += " rcpt-to"
		}
	case t.word("mda"):
		u.action, u.base = "mda "+r.format(r.str("a command in quotes")), "mda"
	default:
		r.at--
		r.unexpected("lmtp, maildir, mbox or mda")
	}
	if user && r.accept("as") {
		u.action += " user " + r.str("a name of a user").render(nil)
	}
}

// format writes a path or command, with the one-letter format specifiers of before
// 5.3 in today's form.
func (r *reader) format(t tok) string {
	if !r.tr.maps || strings.Contains(t.Text, "%{") {
		return t.render(nil)
	}
	return t.render(expandLetters)
}

// letters are the format specifiers of before 5.3. All were put into lower case.
var letters = map[byte]string{
	'u': "user.username", 'a': "dest.user", 'd': "dest.domain", 'A': "sender.user", 'D': "sender.domain",
}

// expandLetters replaces one-letter format specifiers; a digit before the letter
// picks one character.
func expandLetters(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		index, at := "", i+1
		if at < len(s) && '0' <= s[at] && s[at] <= '9' {
			index, at = "["+s[at:at+1]+"]", at+1
		}
		if at < len(s) && letters[s[at]] != "" {
			b.WriteString("%{" + letters[s[at]] + index + ":lowercase}")
			i = at
			continue
		}
		b.WriteByte('%')
		if i+1 < len(s) && s[i+1] == '%' {
			b.WriteString("%%%") // two are one today
			i++
		}
	}
	return b.String()
}

// writeRule writes an action, unless it has been written, and the match lines.
func (tr *translator) writeRule(st *statement, u *rule) {
	verdict := "reject"
	var lines []string
	if u.accept {
		if u.ttl == "" && u.global != tr.ttl {
			u.ttl = u.global // the expire statements in force then
		}
		mapping := ""
		if !u.relay {
			mapping = words(option("alias", u.alias), option("virtual", u.virtual), option("userbase", u.userbase))
		} else if tr.hostname != "" && !strings.Contains(u.action, " helo") {
			u.action += " helo " + tr.hostname
		}
		text := words(u.action, mapping, option("ttl", u.ttl))
		name, fresh := tr.actionName(u.base, text)
		if fresh {
			lines = append(lines, `action "`+name+`" `+text)
		}
		verdict = `action "` + name + `"`
	}
	recipient := u.recipient
	if u.relay && u.virtual != "" && u.virtualAt.Text != "" && recipient == "" {
		recipient = "rcpt-to " + u.virtual // it was the list of whose mail to relay
	}
	for _, f := range tr.origins(u) {
		for _, d := range u.dest {
			lines = append(lines, words("match", u.tag, f, u.sender, d, recipient, verdict))
		}
	}
	if len(lines) == 0 {
		tr.drop(st, "no mail ever matched this rule")
		return
	}
	tr.write(st, lines...)
}

// origins returns the conditions about where mail comes from, a line each. Before
// 6.4 an authenticated client counted as local, whatever its address; before 5.3
// nothing was asked about where it came from.
func (tr *translator) origins(u *rule) []string {
	f := u.from
	authed := f.authed || tr.maps
	plain := "from " + f.text
	if f.not {
		plain = "!" + plain
	}
	switch {
	case u.auth == "auth" && authed:
		return []string{"auth from any"}
	case u.auth == "auth":
		return nil
	case u.auth == "!auth":
		return []string{"!auth " + plain}
	case !tr.auth || f.text == "any":
		return []string{plain}
	case authed:
		return []string{plain, "auth from any"}
	}
	return []string{"!auth " + plain}
}
