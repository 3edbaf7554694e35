package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// finish checks the configuration as a whole and puts it in its final form.
func (p *parser) finish() {
	for _, check := range p.later {
		check()
	}
	if !p.sawMatch {
		p.errorf(p.lastLine, "no rules, nothing to do: write at least one \"match\" line")
	}
	if len(p.errs) > 0 {
		return
	}
	c := p.cfg
	slices.SortFunc(c.MTA.Domains, func(a, b DomainLimits) int { return strings.Compare(a.Domain, b.Domain) })
	c.numberTables()
	c.numberChains()
	for _, r := range c.Rules {
		r.Text = c.ruleText(r)
	}
	p.warnUnused()
	p.warnRules()
}

// tableRefs calls f with every place that names a table, in the order printed.
func (c *Config) tableRefs(f func(name *string)) {
	all := func(names ...*string) {
		for _, n := range names {
			if *n != "" {
				f(n)
			}
		}
	}
	for _, fl := range c.Filters {
		if fl.Builtin != nil {
			all(&fl.Builtin.Table)
		}
	}
	for _, l := range c.Listeners {
		all(&l.AuthTable, &l.Hostnames, &l.ProxyFrom, &l.Senders)
	}
	for _, a := range c.Actions {
		all(&a.Alias, &a.Virtual, &a.Userbase)
		if r := a.Relay; r != nil {
			all(&r.HELOSource, &r.Host, &r.Domain, &r.Auth, &r.Source)
		}
	}
	for _, r := range c.Rules {
		for i := range r.Conditions {
			all(&r.Conditions[i].Table)
		}
	}
}

// filterRefs calls f with every place outside of chains that names a filter, in
// the order printed.
func (c *Config) filterRefs(f func(name *string)) {
	if c.Socket.Filter != "" {
		f(&c.Socket.Filter)
	}
	for _, l := range c.Listeners {
		if l.Filter != "" {
			f(&l.Filter)
		}
	}
	for _, a := range c.Actions {
		if a.Relay != nil && a.Relay.Filter != "" {
			f(&a.Relay.Filter)
		}
	}
}

// numberTables sorts the tables: built-ins, declared ones, then anonymous ones in
// the order of their use, which numbers them. So a configuration and its printed
// form have the same names.
func (c *Config) numberTables() {
	byName := make(map[string]*Table)
	var named []*Table
	for _, t := range c.Tables {
		if t.anonymous() {
			byName[t.Name] = t
		} else {
			named = append(named, t)
		}
	}
	c.Tables = named
	n := 0
	c.tableRefs(func(name *string) {
		if t := byName[*name]; t != nil {
			t.Name = fmt.Sprintf("<dynamic:%d>", n)
			*name = t.Name
			n++
			c.Tables = append(c.Tables, t)
		}
	})
}

// numberChains does for anonymous chains what numberTables does for tables.
func (c *Config) numberChains() {
	byName := make(map[string]*Filter)
	var named []*Filter
	for _, f := range c.Filters {
		if strings.HasPrefix(f.Name, "<") {
			byName[f.Name] = f
		} else {
			named = append(named, f)
		}
	}
	c.Filters = named
	n := 0
	c.filterRefs(func(name *string) {
		if f := byName[*name]; f != nil {
			f.Name = fmt.Sprintf("<dynchain:%d>", n)
			*name = f.Name
			n++
			c.Filters = append(c.Filters, f)
		}
	})
}

// warnUnused doubts declarations without a use.
func (p *parser) warnUnused() {
	c := p.cfg
	used := make(map[string]bool)
	c.tableRefs(func(name *string) { used["table "+*name] = true })
	c.filterRefs(func(name *string) { used["filter "+*name] = true })
	for _, f := range c.Filters {
		used["proc "+f.Proc] = true
		for _, member := range f.Chain {
			used["filter "+member] = true
		}
	}
	for _, l := range c.Listeners {
		used["ca "+l.CA] = true
		for _, name := range l.PKI {
			used["pki "+name] = true
		}
	}
	for _, a := range c.Actions {
		if a.Relay != nil {
			used["pki "+a.Relay.PKI], used["ca "+a.Relay.CA] = true, true
		}
	}
	for _, r := range c.Rules {
		used["action "+r.Action] = true
	}
	unused := func(pos policy.Position, kind, name string) {
		if !used[kind+" "+name] {
			p.warnf(pos, "%s %q is never used", kind, cut(name))
		}
	}
	for _, t := range c.Tables {
		if !t.builtin() {
			unused(t.Pos, "table", t.Name)
		}
	}
	for _, k := range c.PKIs {
		unused(k.Pos, "pki", k.Name)
	}
	for _, k := range c.CAs {
		unused(k.Pos, "ca", k.Name)
	}
	for _, a := range c.Actions {
		unused(a.Pos, "action", a.Name)
	}
	for _, f := range c.Filters {
		unused(f.Pos, "filter", f.Name)
	}
	for _, pr := range c.Procs {
		unused(pr.Pos, "proc", pr.Name)
	}
	for name, m := range p.macros {
		if !m.used {
			p.warnf(m.pos, "macro %q is never used", cut(name))
		}
	}
}

// warnRules doubts rules that make an open relay and rules that are never
// reached.
func (p *parser) warnRules() {
	var all *policy.Rule
	open := slices.ContainsFunc(p.cfg.Listeners, func(l *Listener) bool { return !l.loopback() })
	for _, r := range p.cfg.Rules {
		if all != nil {
			p.warnf(r.Pos, "this rule is never reached: the one in %s:%d matches everything", all.Pos.File, all.Pos.Line)
			continue
		}
		if len(r.Conditions) == 2 && isAny(r.Conditions[0]) && isAny(r.Conditions[1]) {
			all = r
		}
		if a := p.actions[r.Action]; open && a != nil && a.Relay != nil && p.isOpen(r) {
			p.warnf(r.Pos, "open relay: anyone who can connect may send to any domain: add \"auth\", or limit \"from\" or \"for\"")
		}
	}
}

// loopback tells whether only this host can reach the listener, as far as its
// target tells.
func (l *Listener) loopback() bool {
	if a, err := netip.ParseAddr(l.Target); err == nil {
		return a.IsLoopback()
	}
	return l.Target == "localhost" || l.Target == "lo" || l.Target == "lo0"
}

func isAny(c policy.Condition) bool { return c.How == policy.IsAny && !c.Not }

// isOpen tells whether strangers can make a rule match for any domain. What the
// client says itself (HELO name, sender) and whether it uses TLS protects
// nothing.
func (p *parser) isOpen(r *policy.Rule) bool {
	for _, c := range r.Conditions {
		switch c.Kind {
		case policy.From:
			if !isAny(c) && !(c.How == policy.InTable && !c.RDNS && !c.Not && p.holdsEveryAddress(c.Table)) {
				return false
			}
		case policy.For:
			if !isAny(c) {
				return false
			}
		case policy.Auth:
			if !c.Not {
				return false
			}
		case policy.Tag, policy.RcptTo:
			return false
		}
	}
	return true
}

// holdsEveryAddress tells whether an inline table names a whole address family.
func (p *parser) holdsEveryAddress(name string) bool {
	for _, t := range p.cfg.Tables {
		if t.Name != name {
			continue
		}
		return slices.ContainsFunc(t.Entries, func(e Entry) bool { return e.Key == "0.0.0.0/0" || e.Key == "::/0" || e.Key == "0/0" })
	}
	return false
}
