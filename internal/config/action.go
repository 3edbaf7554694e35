package config

import (
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// maxActionName bounds the name of an action, in bytes. Envelopes carry it.
const maxActionName = 1023

// action reads "action NAME METHOD [OPTIONS]".
func (p *parser) action(kw token) {
	at := p.peek()
	a := &policy.Action{Pos: kw.pos, Name: p.str("a name of an action")}
	if p.accept("relay") {
		a.Method, a.Relay = policy.Relay, &policy.RelayOptions{}
	} else {
		p.method(a)
	}
	o := actionOptions{p: p, a: a, seen: make(map[string]bool)}
	for !p.atEnd() {
		switch {
		case p.peek().word("ttl"):
			o.ttl()
		case a.Relay != nil:
			o.relay()
		default:
			o.local()
		}
	}
	o.finish()
	first := p.actions[a.Name]
	switch {
	case p.failed:
		p.broken["action "+a.Name] = true
	case first != nil:
		p.errorf(at.pos, "action %q already declared in %s:%d", cut(a.Name), first.Pos.File, first.Pos.Line)
	case len(a.Name) > maxActionName || a.Name == "":
		p.errorf(at.pos, "names of actions have 1 to %d bytes", maxActionName)
	default:
		p.actions[a.Name] = a
		p.cfg.Actions = append(p.cfg.Actions, a)
	}
}

// method reads how a local action delivers.
func (p *parser) method(a *policy.Action) {
	switch {
	case p.accept("mbox"):
		a.Method = policy.Mbox
	case p.accept("maildir"):
		a.Method = policy.Maildir
		if p.peek().kind == tokString {
			a.Path = p.take().text
		}
		a.Junk = p.accept("junk")
	case p.accept("lmtp"):
		a.Method = policy.LMTP
		a.Dest = p.str("the path of a socket in quotes, or host:port")
		a.RcptTo = p.accept("rcpt-to")
	case p.accept("mda"):
		a.Method = policy.Command
		a.Command = p.str("a command in quotes")
	case p.accept("forward-only"):
		a.Method = policy.ForwardOnly
	case p.accept("expand-only"):
		a.Method = policy.ExpandOnly
	default:
		p.syntaxError("expected mbox, maildir, lmtp, mda, forward-only, expand-only or relay")
	}
}

// actionOptions reads the options of one action.
type actionOptions struct {
	p      *parser
	a      *policy.Action
	seen   map[string]bool
	hostAt token // the host or domain option
	authAt token
}

const forAction = " for this action"

// ttl reads how long the action's mail is tried.
func (o *actionOptions) ttl() {
	t := o.p.take()
	o.a.TTL = o.p.delay("ttl delay %q is invalid")
	o.p.once(o.seen, t, "ttl", forAction)
}

// local reads an option of local delivery.
func (o *actionOptions) local() {
	p, a := o.p, o.a
	t := p.peek()
	what := t.text
	switch {
	case p.accept("alias"):
		what, a.Alias = "alias mapping", p.tableFor("alias", keyValues)
	case p.accept("virtual"):
		what, a.Virtual = "virtual mapping", p.tableFor("virtual", keyValues)
	case p.accept("userbase"):
		what, a.Userbase = "userbase mapping", p.tableFor("userbase", keyValues)
	case p.accept("user"):
		a.User = p.str("a name of a user")
		o.checkUser(t)
	case p.accept("wrapper"):
		o.wrapper(t)
		return // the last one wins
	default:
		p.syntaxError("expected an option of a local action: alias, ttl, user, userbase, virtual or wrapper")
		return
	}
	p.once(o.seen, t, what, forAction)
	if o.seen["alias mapping"] && o.seen["virtual mapping"] && (t.text == "alias" || t.text == "virtual") {
		other := map[string]string{"alias": "virtual", "virtual": "alias"}[t.text]
		p.errorf(t.pos, "%s mapping already specified for this action: alias and virtual are mutually exclusive", other)
	}
}

// checkUser refuses the option where no program runs as the user.
func (o *actionOptions) checkUser(t token) {
	switch o.a.Method {
	case policy.Mbox:
		o.p.errorf(t.pos, "user may not be specified for mbox: it delivers to each user's own mailbox")
	case policy.ForwardOnly:
		o.p.errorf(t.pos, "user may not be specified for forward-only")
	case policy.ExpandOnly:
		o.p.errorf(t.pos, "user may not be specified for expand-only")
	}
}

// wrapper reads the name of a command to run around the delivery.
func (o *actionOptions) wrapper(t token) {
	p, a := o.p, o.a
	at := p.peek()
	name := p.str("a name of a wrapper")
	if p.failed {
		return
	}
	command, there := p.cfg.Wrappers[name]
	if !there && !p.broken["wrapper "+name] {
		p.errorf(at.pos, "unknown wrapper %q: declare it above with \"mda wrapper %s COMMAND\"", cut(name), quote(cut(name)))
		return
	}
	switch a.Method {
	case policy.Mbox:
		p.errorf(t.pos, "wrapper may not be specified for mbox: no command is run for it")
	case policy.ForwardOnly, policy.ExpandOnly:
		p.warnf(t.pos, "wrapper has no effect: this action runs no command")
	default:
		a.Wrapper = command
	}
}

// relay reads an option of relaying.
func (o *actionOptions) relay() {
	p, r := o.p, o.a.Relay
	t := p.peek()
	what := t.text
	switch {
	case p.accept("backup"):
		r.Backup = true
		if p.accept("mx") {
			r.BackupName = p.announced()
		}
	case p.accept("helo"):
		r.HELO = p.announced()
	case p.accept("helo-src"):
		r.HELOSource = p.tableFor("helo-src", keyValues)
	case p.accept("host"):
		o.hostAt, what = t, "host mapping"
		r.Host = p.tableFor("host", keysOnly)
	case p.accept("domain"):
		o.hostAt, what = t, "host mapping"
		r.Domain = p.tableFor("domain", keyValues)
	case p.accept("auth"):
		o.authAt = t
		r.Auth = p.tableFor("auth", keyValues)
		r.Bearer = p.acceptBare("bearer")
	case p.accept("tls"):
		r.TLS = o.tls()
	case p.acceptBare("prefer"), p.acceptBare("only"):
		what, r.Family = "address family", o.family(t)
	case p.accept("pki"):
		at := p.peek()
		r.PKI = strings.ToLower(p.name("a name of a pki"))
		p.needPKI(at, r.PKI)
	case p.accept("ca"):
		at := p.peek()
		r.CA = strings.ToLower(p.name("a name of a ca"))
		p.needCA(at, r.CA)
	case p.accept("ciphers"):
		r.Ciphers = p.str("a list of ciphers in quotes")
	case p.accept("protocols"):
		r.Protocols = p.str("a list of protocols in quotes")
	case p.accept("src"):
		r.Source = p.tableFor("src", anyContent)
	case p.accept("mail-from"):
		r.MailFrom = p.str("an address in quotes")
	case p.accept("filter"):
		r.Filter = p.filterUse()
	case p.accept("srs"):
		r.SRS = true
		if p.cfg.SRS.Key == "" {
			p.errorf(t.pos, "an srs key is required for srs to be specified in an action: write \"srs key STRING\" above")
		}
	default:
		p.syntaxError("expected an option of a relay action: auth, backup, ca, ciphers, domain, filter, helo, helo-src, host, mail-from, only, pki, prefer, protocols, src, srs, tls or ttl")
		return
	}
	p.once(o.seen, t, what, forAction)
}

// tls reads what follows "tls"; nothing means that it is required.
func (o *actionOptions) tls() string {
	if o.p.accept("no-verify") {
		return "no-verify"
	}
	for _, word := range []string{"opportunistic", "sts", "dane"} {
		if o.p.acceptBare(word) {
			return word
		}
	}
	o.p.acceptBare("required")
	return "required"
}

// family reads what follows "prefer" or "only".
func (o *actionOptions) family(how token) string {
	for _, word := range []string{"inet4", "inet6"} {
		if o.p.accept(word) {
			return how.text + " " + word
		}
	}
	o.p.syntaxError("expected inet4 or inet6")
	return ""
}

// finish checks what concerns several options.
func (o *actionOptions) finish() {
	p := o.p
	if p.failed || o.a.Relay == nil {
		return
	}
	r := o.a.Relay
	switch {
	case r.Backup && r.Host != "":
		p.errorf(o.hostAt.pos, "backup and host are mutually exclusive")
	case r.Backup && r.Domain != "":
		p.errorf(o.hostAt.pos, "backup and domain are mutually exclusive")
	case o.seen["auth"] && !o.seen["host mapping"]:
		p.errorf(o.authAt.pos, "auth may not be specified without host on an action: add \"host\" or \"domain\"")
	}
	p.checkRelayURLs(o.hostAt, r)
}

// checkRelayURLs doubts hosts written in the configuration that can never be used.
func (p *parser) checkRelayURLs(at token, r *policy.RelayOptions) {
	var urls []string
	if t := p.tables[r.Host]; t != nil {
		for _, e := range t.Entries {
			urls = append(urls, e.Key)
		}
	}
	if t := p.tables[r.Domain]; t != nil {
		for _, e := range t.Entries {
			urls = append(urls, e.Value)
		}
	}
	for _, entry := range urls {
		hosts, err := nexthop.ParseURLs(entry)
		if err != nil {
			p.warnf(at.pos, "%v", err)
			continue
		}
		for _, u := range hosts {
			switch {
			case u.Label != "" && r.Auth == "":
				p.warnf(at.pos, "relay host %q: a label needs \"auth TABLE\", no mail will leave", cut(u.String()))
			case u.Label != "" && p.lacksLabel(r.Auth, u.Label):
				p.warnf(at.pos, "relay host %q: table %q has no credentials for its label, no mail will leave", cut(u.String()), cut(r.Auth))
			case r.TLS != "" && r.TLS != "opportunistic" && u.TLS == nexthop.Never:
				p.warnf(at.pos, "relay host %q: the action asks for tls, no mail will leave", cut(u.String()))
			case r.TLS == "dane" && u.Addr.IsValid():
				p.warnf(at.pos, "relay host %q: an address has no TLSA records, no mail will leave", cut(u.String()))
			}
		}
	}
}

// lacksLabel tells whether a table is known to have no credentials for a label.
func (p *parser) lacksLabel(name, label string) bool {
	t := p.tables[name]
	switch {
	case t == nil:
		return false
	case t.Backend == "static":
		return !slices.ContainsFunc(t.Entries, func(e Entry) bool { return strings.EqualFold(e.Key, label) })
	case t.Path == "" || t.Program() || t.Kind == 0 || p.opts.HasLabel == nil:
		return false
	}
	has, err := p.opts.HasLabel(t.Backend, t.Path, label)
	return err == nil && !has
}
