package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// filter reads a declaration of a filter.
func (p *parser) filter(kw token) {
	at := p.peek()
	f := &Filter{Pos: kw.pos, Name: p.str("a name of a filter")}
	switch {
	case p.accept("phase"):
		f.Builtin = p.builtin()
	case p.accept("proc"):
		t := p.peek()
		f.Proc = p.str("a name of a process")
		if !p.failed && p.procs[f.Proc] == nil && !p.broken["proc "+f.Proc] {
			p.errorf(t.pos, "unknown proc %q: declare it above with \"proc %s COMMAND\"", cut(f.Proc), quote(cut(f.Proc)))
			p.broken["filter "+f.Name] = true
		}
		p.filterOptions(f, nil)
	case p.accept("proc-exec"):
		pr := &Proc{Pos: kw.pos, Name: f.Name, Command: p.str("a command in quotes")}
		p.filterOptions(f, pr)
		if f.Proc = f.Name; p.filters[f.Name] == nil && !p.addProc(at, pr) {
			p.broken["filter "+f.Name] = true
		}
	case p.accept("chain"):
		f.Chain = p.chain()
	default:
		p.syntaxError("expected phase, proc, proc-exec or chain")
	}
	first := p.filters[f.Name]
	switch {
	case p.failed:
		p.broken["filter "+f.Name] = true
	case first != nil:
		p.errorf(at.pos, "filter %q already declared in %s:%d", cut(f.Name), first.Pos.File, first.Pos.Line)
	case strings.HasPrefix(f.Name, "<"):
		p.errorf(at.pos, "a filter's name may not begin with \"<\": %s", cut(f.Name))
	case !p.broken["filter "+f.Name]:
		p.filters[f.Name] = f
		p.cfg.Filters = append(p.cfg.Filters, f)
	}
}

// answerPhases are those in which a process answers.
var answerPhases = []string{"connect", "helo", "ehlo", "starttls", "auth", "mail-from", "rcpt-to", "data", "data-line",
	"rset", "quit", "noop", "commit"}

// filterOptions reads the options of a process filter and, for a process declared
// with it, those of the process.
func (p *parser) filterOptions(f *Filter, pr *Proc) {
	o := &f.Options
	failure := false
	for !p.atEnd() && !p.failed {
		t := p.peek()
		twice := func(again bool) {
			if again {
				p.errorf(t.pos, "%s already specified for this filter", t.text)
			}
		}
		switch {
		case pr != nil && p.procOption(pr):
		case p.acceptBare("auth-secrets"):
			twice(o.Secrets)
			o.Secrets = true
		case p.acceptBare("rewrite-ends"):
			twice(o.RewriteEnds)
			o.RewriteEnds = true
		case p.acceptBare("on-failure"):
			twice(failure)
			failure = true
			if o.Bypass = p.accept("bypass"); !o.Bypass && !p.acceptBare("tempfail") {
				p.syntaxError("expected tempfail or bypass")
			}
		case p.acceptBare("timeout"):
			p.filterTimeout(o)
		case pr != nil:
			p.syntaxError("expected auth-secrets, chroot, group, on-failure, rewrite-ends, timeout or user")
		default:
			p.syntaxError("expected auth-secrets, on-failure, rewrite-ends or timeout")
		}
	}
}

// filterTimeout reads "[PHASE] DELAY".
func (p *parser) filterTimeout(o *FilterOptions) {
	t := p.peek()
	if t.quoted || t.kind != tokWord && t.kind != tokString || !slices.Contains(answerPhases, t.text) {
		if o.Timeout != 0 {
			p.errorf(t.pos, "timeout already specified for this filter")
		}
		o.Timeout = p.delay("timeout %q is invalid")
		return
	}
	p.take()
	if _, again := o.Timeouts[t.text]; again {
		p.errorf(t.pos, "timeout of %s already specified for this filter", t.text)
	}
	if o.Timeouts == nil {
		o.Timeouts = make(map[string]time.Duration)
	}
	o.Timeouts[t.text] = p.delay("timeout %q is invalid")
}

// filterUse takes a filter for a listener or an action: a name, or a chain in
// braces, which gets a name of its own.
func (p *parser) filterUse() string {
	if p.peek().is("{") {
		f := &Filter{Pos: p.peek().pos, Chain: p.chain()}
		if p.failed {
			return ""
		}
		f.Name = fmt.Sprintf("<dynchain:%d>", len(p.cfg.Filters))
		p.cfg.Filters = append(p.cfg.Filters, f)
		return f.Name
	}
	t := p.peek()
	name := p.str("a name of a filter, or { ... }")
	if !p.failed {
		p.knownFilter(t, name)
	}
	return name
}

// knownFilter returns a declared filter, or nil after reporting that there is
// none.
func (p *parser) knownFilter(t token, name string) *Filter {
	if f := p.filters[name]; f != nil {
		return f
	}
	if !p.broken["filter "+name] {
		p.errorf(t.pos, "unknown filter %q: declare it above with \"filter %s ...\"", cut(name), quote(cut(name)))
	}
	return nil
}

// chain takes the members of a chain in braces.
func (p *parser) chain() []string {
	var names, procs []string
	p.braced(func() {
		t := p.peek()
		name := p.str("a name of a filter")
		if p.failed {
			return
		}
		f := p.knownFilter(t, name)
		switch {
		case f == nil:
		case f.Chain != nil:
			p.errorf(t.pos, "no filter chain allowed within a filter chain: %s", cut(name))
		case slices.Contains(names, name):
			p.errorf(t.pos, "no filter allowed twice within a filter chain: %s", cut(name))
		case f.Proc != "" && slices.Contains(procs, f.Proc):
			p.errorf(t.pos, "no proc allowed twice within a filter chain: %s", cut(f.Proc))
		default:
			if f.Proc != "" {
				procs = append(procs, f.Proc)
			}
		}
		names = append(names, name)
	})
	return names
}

// phases are where a built-in filter acts, in the order of a session.
var phases = []string{"connect", "helo", "ehlo", "auth", "mail-from", "rcpt-to", "data", "commit"}

// conditionPhases names the phases in which what a condition tests is known.
var conditionPhases = map[string][]string{
	"fcrdns":    phases,
	"rdns":      phases,
	"src":       phases,
	"helo":      phases[1:],
	"auth":      phases[3:],
	"mail-from": phases[4:],
	"rcpt-to":   phases[5:6],
}

// builtin reads "PHASE match [!]CONDITION ACTION".
func (p *parser) builtin() *BuiltinFilter {
	t := p.peek()
	if t.kind != tokWord || !slices.Contains(phases, t.text) {
		p.syntaxError("expected a phase: " + strings.Join(phases, ", "))
		return nil
	}
	p.take()
	f := &BuiltinFilter{Phase: t.text}
	p.expect("match")
	f.Not = p.acceptPunct("!")
	p.builtinCondition(f)
	p.builtinAction(f)
	return f
}

// builtinCondition reads what a built-in filter tests.
func (p *parser) builtinCondition(f *BuiltinFilter) {
	t := p.peek()
	allowed := conditionPhases[t.text]
	switch {
	case t.kind != tokWord || allowed == nil:
		p.syntaxError("expected a condition: fcrdns, rdns, src, helo, auth, mail-from or rcpt-to")
		return
	case !slices.Contains(allowed, f.Phase):
		p.syntaxError(fmt.Sprintf("%s can be tested in phase %s, not in phase %s", t.text, strings.Join(allowed, ", "), f.Phase))
		return
	}
	p.take()
	f.Condition = t.text
	bare := t.text == "fcrdns" || t.text == "rdns" || t.text == "auth"
	if t.text == "fcrdns" || bare && !p.peek().word("regex") && !p.tableAhead() {
		return
	}
	f.Regex = p.accept("regex")
	f.Table = nameOf(p.tableValue())
}

// builtinAction reads what a built-in filter does.
func (p *parser) builtinAction(f *BuiltinFilter) {
	t := p.peek()
	switch {
	case p.accept("reject"), p.accept("disconnect"):
		at := p.peek()
		f.Argument = p.str("a reply in quotes, like \"550 go away\"")
		if s := f.Argument; !p.failed && (len(s) < 4 || s[0] != '4' && s[0] != '5' || !allDigits(s[1:3]) || s[3] != ' ') {
			p.warnf(at.pos, "%s is no reply like \"550 go away\": clients get \"421 Internal server error\"", at.describe())
		}
	case p.accept("rewrite"), p.accept("report"):
		f.Argument = p.str("a text in quotes")
	case f.Phase != "commit" && (p.accept("junk") || p.accept("bypass")):
	case f.Phase == "commit":
		p.syntaxError("expected reject, disconnect, rewrite or report")
	default:
		p.syntaxError("expected reject, disconnect, rewrite, report, junk or bypass")
	}
	f.Action = t.text
}
