package config

import (
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// numSlots is how many conditions a rule may have.
const numSlots = policy.RcptTo + 1

// slotNames name the conditions in messages and in the printed form.
var slotNames = [numSlots]string{
	policy.Tag:      "tag",
	policy.From:     "from",
	policy.For:      "for",
	policy.HELO:     "helo",
	policy.Auth:     "auth",
	policy.TLS:      "tls",
	policy.MailFrom: "mail-from",
	policy.RcptTo:   "rcpt-to",
}

// ruleReader reads the conditions of one match line.
type ruleReader struct {
	p     *parser
	slots [numSlots]*policy.Condition
}

// match reads "match CONDITIONS (action NAME | reject)".
func (p *parser) match(kw token) {
	p.sawMatch = true
	rule := &policy.Rule{Pos: kw.pos}
	r := ruleReader{p: p}
	for done := false; !done && !p.failed; {
		switch t := p.peek(); {
		case p.accept("action"):
			rule.Action, done = p.actionUse(), true
		case p.accept("reject"):
			done = true
		case p.atEnd():
			p.syntaxError("a rule ends with \"action NAME\" or \"reject\"")
		default:
			r.condition(t)
		}
	}
	if !p.failed && !p.atEnd() {
		p.syntaxError("expected the end of the line: conditions stand before the action")
	}
	if p.failed {
		return
	}
	if r.slots[policy.From] == nil {
		r.slots[policy.From] = &policy.Condition{Kind: policy.From, How: policy.IsLocal, Table: "<localhost>"}
	}
	if r.slots[policy.For] == nil {
		r.slots[policy.For] = &policy.Condition{Kind: policy.For, How: policy.IsLocal, Table: "<localnames>"}
	}
	for _, c := range r.slots {
		if c != nil {
			rule.Conditions = append(rule.Conditions, *c)
		}
	}
	p.cfg.Rules = append(p.cfg.Rules, rule)
}

// actionUse takes the name of an action.
func (p *parser) actionUse() string {
	t := p.peek()
	name := p.str("a name of an action")
	if !p.failed && p.actions[name] == nil && !p.broken["action "+name] {
		p.errorf(t.pos, "unknown action %q: declare it above with \"action %s ...\"", cut(name), quote(cut(name)))
	}
	return name
}

// set stores a condition. Each slot has one.
func (r *ruleReader) set(t token, c policy.Condition) {
	if r.p.failed {
		return
	}
	if r.slots[c.Kind] != nil {
		r.p.errorf(t.pos, "%s already specified for this rule", slotNames[c.Kind])
	}
	r.slots[c.Kind] = &c
}

// condition reads one condition; first is its first token.
func (r *ruleReader) condition(first token) {
	p := r.p
	not := p.acceptPunct("!")
	t := p.peek()
	switch {
	case p.accept("from"):
		r.from(first, not)
	case p.accept("for"):
		r.forCondition(first, not)
	case p.accept("tag"):
		r.tested(first, not, policy.Tag, keysOnly, keysOnly)
	case p.accept("helo"):
		r.tested(first, not, policy.HELO, keysOnly, keysOnly)
	case p.accept("mail-from"):
		r.tested(first, not, policy.MailFrom, anyContent, keysOnly)
	case p.accept("rcpt-to"):
		r.tested(first, not, policy.RcptTo, anyContent, keysOnly)
	case p.accept("auth"):
		r.auth(first, not, anyContent)
	case p.accept("tls"):
		r.set(t, policy.Condition{Kind: policy.TLS, How: policy.Exists, Not: not})
	default:
		p.syntaxError("expected a condition (auth, for, from, helo, mail-from, rcpt-to, tag or tls), action or reject")
	}
}

// tested reads "[regex] TABLE" of a condition that has a table.
func (r *ruleReader) tested(first token, not bool, kind policy.Kind, allowed, allowedRegex kinds) {
	c := policy.Condition{Kind: kind, How: policy.InTable, Not: not}
	if r.p.accept("regex") {
		c.How, allowed = policy.RegexIn, allowedRegex
	}
	lookup := slotNames[kind]
	if kind == policy.For {
		lookup = "domain"
	}
	c.Table = r.p.tableFor(lookup, allowed)
	r.set(first, c)
}

// auth reads what follows "auth" and "from auth".
func (r *ruleReader) auth(first token, not bool, allowed kinds) {
	if r.p.peek().word("regex") || r.p.tableAhead() {
		r.tested(first, not, policy.Auth, allowed, keysOnly)
		return
	}
	r.set(first, policy.Condition{Kind: policy.Auth, How: policy.Exists, Not: not})
}

// from reads what follows "from". The forms that test who the sender is, not
// where the client is, hold for any source; "!" is about the test.
func (r *ruleReader) from(first token, not bool) {
	p := r.p
	c := policy.Condition{Kind: policy.From, Not: not}
	anySource := policy.Condition{Kind: policy.From, How: policy.IsAny}
	switch {
	case p.accept("any"):
		c.How = policy.IsAny
	case p.accept("local"):
		c.How, c.Table = policy.IsLocal, "<localhost>"
	case p.accept("socket"):
		c.How = policy.IsSocket
	case p.accept("src"):
		r.tested(first, not, policy.From, anyContent, keysOnly)
		return
	case p.accept("rdns"):
		c.RDNS, c.How = true, policy.HasRDNS
		if p.peek().word("regex") || p.tableAhead() {
			c.How = policy.InTable
			if p.accept("regex") {
				c.How = policy.RegexIn
			}
			c.Table = p.tableFor("rdns", keysOnly)
		}
	case p.accept("auth"):
		r.set(first, anySource)
		r.auth(first, not, keysOnly)
		return
	case p.accept("mail-from"):
		r.set(first, anySource)
		r.tested(first, not, policy.MailFrom, anyContent, anyContent)
		return
	default:
		p.syntaxError("expected any, auth, local, mail-from, rdns, socket or src")
		return
	}
	r.set(first, c)
}

// forCondition reads what follows "for".
func (r *ruleReader) forCondition(first token, not bool) {
	p := r.p
	switch {
	case p.accept("any"):
		r.set(first, policy.Condition{Kind: policy.For, How: policy.IsAny, Not: not})
	case p.accept("local"):
		r.set(first, policy.Condition{Kind: policy.For, How: policy.IsLocal, Table: "<localnames>", Not: not})
	case p.accept("domain"):
		r.tested(first, not, policy.For, anyContent, keysOnly)
	case p.accept("rcpt-to"):
		r.set(first, policy.Condition{Kind: policy.For, How: policy.IsAny})
		r.tested(first, not, policy.RcptTo, anyContent, anyContent)
	default:
		p.syntaxError("expected any, domain, local or rcpt-to")
	}
}
