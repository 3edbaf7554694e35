package config

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// Write prints the configuration as understood: one statement per line, in the
// syntax of smtpd.conf, includes and macros resolved, defaults filled in, each
// declaration followed by where it was made. Reading the output gives an equal
// configuration.
//
// The output holds what the file holds, keys and inline passwords included.
func (c *Config) Write(w io.Writer) error {
	p := printer{c: c, w: bufio.NewWriter(w)}
	p.tables()
	p.certificates()
	p.settings()
	p.filters()
	p.listeners()
	for _, a := range c.Actions {
		p.line(a.Pos, p.action(a))
	}
	for _, r := range c.Rules {
		p.line(r.Pos, c.ruleText(r))
	}
	return p.w.Flush()
}

// printer prints one configuration.
type printer struct {
	c *Config
	w *bufio.Writer
}

// words joins what is not empty.
func words(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

// line prints a statement and where it came from. bufio keeps the first error
// for Flush.
func (p *printer) line(pos policy.Position, statement ...string) {
	s := words(statement...)
	if pos.Line > 0 {
		file := pos.File
		if strings.IndexFunc(file, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) >= 0 {
			file = strconv.Quote(file)
			file = strings.ReplaceAll(file, `\`, "?")
		}
		s += fmt.Sprintf(" # %s:%d", file, pos.Line)
	}
	fmt.Fprintln(p.w, s)
}

// quoted prints a string in quotes.
func quoted(s string) string {
	quote := byte('"')
	if strings.Contains(s, `"`) && !strings.Contains(s, "'") {
		quote = '\''
	}
	out := []byte{quote}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == quote:
			out = append(out, '\\')
		case (c == ' ' || c == '\t') && i > 0 && s[i-1] == '\\':
			out = append(out, '\\')
		}
		out = append(out, c)
	}
	if strings.HasSuffix(s, `\`) {
		// The backslash would protect the closing quote; before a newline, another
		// one goes away with it.
		out = append(out, '\\', '\n')
	}
	return string(append(out, quote))
}

// quote prints a string, in quotes where it needs them.
func quote(s string) string {
	digits := 0
	for digits < len(s) && isDigit(int(s[digits])) {
		digits++
	}
	if s == "" || keywords[s] || digits == len(s) || !beginsString(int(s[0])) || digits > 0 && s[digits] == '/' {
		return quoted(s)
	}
	for i := 0; i < len(s); i++ {
		if c := int(s[i]); !isAlnum(c) && strings.IndexByte("_.:/@+*%-", byte(c)) < 0 {
			return quoted(s)
		}
	}
	return s
}

// option prints "WORD VALUE" when there is a value.
func option(word, value string) string {
	if value == "" {
		return ""
	}
	return word + " " + quoted(value)
}

// delayOption prints an option whose value is a delay.
func delayOption(word string, d time.Duration) string {
	if d == 0 {
		return ""
	}
	return word + " " + formatDelay(d)
}

// when prints a word when on.
func when(on bool, word string) string {
	if on {
		return word
	}
	return ""
}

// find returns a table by its name.
func (c *Config) find(name string) *Table {
	for _, t := range c.Tables {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// tableRef prints the use of a table after a word; nothing when there is none.
func (c *Config) tableRef(word, name string) string {
	if name == "" {
		return ""
	}
	t := c.find(name)
	switch {
	case t == nil || !strings.HasPrefix(name, "<"):
		name = "<" + quote(name) + ">"
	case !t.anonymous():
		short := strings.Trim(name, "<>")
		if name = "<" + quoted(name) + ">"; c.find(short) == nil && t.builtin() {
			name = "<" + quote(short) + ">"
		}
	case t.Kind == List && len(t.Entries) == 1:
		name = quoted(t.Entries[0].Key)
	default:
		name = braces(t)
	}
	return word + " " + name
}

// braces prints the content of an inline table.
func braces(t *Table) string {
	elements := make([]string, len(t.Entries))
	for i, e := range t.Entries {
		elements[i] = quoted(e.Key)
		if t.Kind == Map {
			elements[i] += " = " + quoted(e.Value)
		}
	}
	return "{ " + strings.Join(elements, ", ") + " }"
}

// filterRef prints the use of a filter.
func (p *printer) filterRef(name string) string {
	if name == "" {
		return ""
	}
	for _, f := range p.c.Filters {
		if f.Name == name && strings.HasPrefix(name, "<") {
			return "filter " + chainText(f)
		}
	}
	return "filter " + quote(name)
}

func chainText(f *Filter) string {
	members := make([]string, len(f.Chain))
	for i, m := range f.Chain {
		members[i] = quote(m)
	}
	return "{ " + strings.Join(members, ", ") + " }"
}

func (p *printer) tables() {
	for _, t := range p.c.Tables {
		switch {
		case t.anonymous():
		case t.builtin():
			// Comments, so names of the host are printed on one line whatever they hold.
			keys := make([]string, len(t.Entries))
			for i, e := range t.Entries {
				keys[i] = strconv.Quote(e.Key)
			}
			text := "# built in: table " + t.Name
			if len(keys) > 0 {
				text += " { " + strings.Join(keys, ", ") + " }"
			}
			p.line(policy.Position{}, text)
		case t.Backend == "static":
			p.line(t.Pos, "table", quote(t.Name), braces(t))
		case t.Command != "":
			p.line(t.Pos, "table", quote(t.Name), CommandBackend, quote(t.Command), delayOption("ttl", t.TTL))
		case t.Path != "":
			p.line(t.Pos, "table", quote(t.Name), quote(t.Backend+":"+t.Path), delayOption("ttl", t.TTL))
		default:
			p.line(t.Pos, "table", quote(t.Name), quote(t.Backend), delayOption("ttl", t.TTL))
		}
	}
}

func (p *printer) certificates() {
	for _, k := range p.c.PKIs {
		p.line(k.Pos, "pki", quote(k.Name), option("cert", k.Cert), option("key", k.Key), "dhe", k.DHE)
	}
	for _, k := range p.c.CAs {
		p.line(k.Pos, "ca", quote(k.Name), "cert", quoted(k.Cert))
	}
}

// settings prints everything that is not a declaration.
func (p *printer) settings() {
	c, none := p.c, policy.Position{}
	if c.AdminDomain != "" {
		p.line(none, "admd", quoted(c.AdminDomain))
	}
	delays := make([]string, len(c.Bounce.WarnIntervals))
	for i, d := range c.Bounce.WarnIntervals {
		delays[i] = formatDelay(d)
	}
	if len(delays) > 0 {
		p.line(none, "bounce warn-interval", strings.Join(delays, ", "))
	}
	p.line(none, fmt.Sprintf("bounce limit max-messages-per-minute %d", c.Bounce.MaxPerMinute))
	if !c.Bounce.Postmaster.IsNull() {
		p.line(none, "bounce postmaster", quoted(c.Bounce.Postmaster.String()))
	}
	p.line(none, fmt.Sprintf("mda limit max-session %d max-session-per-user %d task-hiwat %d task-lowat %d task-release %d",
		c.MDA.MaxSession, c.MDA.MaxSessionPerUser, c.MDA.TaskHiwat, c.MDA.TaskLowat, c.MDA.TaskRelease))
	for _, name := range slices.Sorted(maps.Keys(c.Wrappers)) {
		p.line(none, "mda wrapper", quote(name), quoted(c.Wrappers[name]))
	}
	p.line(none, fmt.Sprintf("mta max-deferred %d", c.MTA.MaxDeferred))
	// The limits of a domain begin as those for all, family included: those
	// without a family stand before one is set for all.
	for _, d := range c.MTA.Domains {
		if d.Family == "" {
			p.line(none, "mta limit for domain", quoted(d.Domain), mtaLimitText(d.MTALimits))
		}
	}
	p.line(none, "mta limit", mtaLimitText(c.MTA.Default))
	for _, d := range c.MTA.Domains {
		if d.Family != "" {
			p.line(none, "mta limit for domain", quoted(d.Domain), mtaLimitText(d.MTALimits))
		}
	}
	p.line(none, fmt.Sprintf("scheduler limit max-inflight %d max-schedule %d max-evp-batch-size %d max-msg-batch-size %d",
		c.Scheduler.MaxInflight, c.Scheduler.MaxSchedule, c.Scheduler.MaxEnvelopeBatch, c.Scheduler.MaxMessageBatch))
	p.queue()
	p.smtp()
}

func mtaLimitText(l MTALimits) string {
	parts := []string{l.Family}
	for _, k := range mtaLimitKeys {
		parts = append(parts, fmt.Sprintf("%s %d", k.key, l.Values[k.key]))
	}
	return words(parts...)
}

func (p *printer) queue() {
	q, none := p.c.Queue, policy.Position{}
	if q.Compression != "" {
		p.line(none, "queue compression", q.Compression)
	}
	switch q.Encryption {
	case KeyAsk:
		p.line(none, "queue encryption")
	case KeyStdin:
		p.line(none, "queue encryption stdin")
	case KeyInline:
		p.line(none, "queue encryption", quoted(q.Key))
	case KeyInFile:
		p.line(none, "queue encryption file", quoted(q.KeyFile))
	}
	p.line(none, "queue ttl", formatDelay(q.TTL))
	p.line(none, fmt.Sprintf("queue reserve space %d inodes %d", q.ReserveSpace, q.ReserveInodes))
	p.line(none, "queue retry mda", formatDelay(q.RetryMDA))
	p.line(none, "queue retry mta", formatDelay(q.RetryMTA))
}

func (p *printer) smtp() {
	s, none := p.c.SMTP, policy.Position{}
	if s.Ciphers != "" {
		p.line(none, "smtp ciphers", quoted(s.Ciphers))
	}
	p.line(none, fmt.Sprintf("smtp limit max-mails %d max-rcpt %d max-session %d max-session-per-source %d max-errors %d max-auth-failures %d min-rate %d",
		s.MaxMails, s.MaxRcpt, s.MaxSessions, s.MaxSessionsPerSource, s.MaxErrors, s.MaxAuthFailures, s.MinRate))
	p.line(none, fmt.Sprintf("smtp max-message-size %d", s.MaxMessageSize))
	p.line(none, "smtp sub-addr-delim", quoted(s.SubAddrDelim))
	if s.BareNewline == NormalizeBareNewline {
		p.line(none, "smtp bare-newline normalize")
	} else {
		p.line(none, "smtp bare-newline reject")
	}
	r := p.c.SRS
	if r.Key != "" {
		p.line(none, "srs key", quoted(r.Key))
	}
	if r.BackupKey != "" {
		p.line(none, "srs key backup", quoted(r.BackupKey))
	}
	p.line(none, fmt.Sprintf("srs ttl %dd", r.TTLDays))
	if t := p.c.TLSReport; t.From != "" {
		p.line(none, "report tls from", quoted(t.From), option("organization", t.Organization), option("contact", t.Contact))
	}
}

func (p *printer) filters() {
	for _, pr := range p.c.Procs {
		p.line(pr.Pos, "proc", quote(pr.Name), quoted(pr.Command),
			option("user", pr.User), option("group", pr.Group), option("chroot", pr.Chroot))
	}
	for _, f := range p.c.Filters {
		switch {
		case strings.HasPrefix(f.Name, "<"):
		case f.Builtin != nil:
			p.line(f.Pos, "filter", quote(f.Name), p.builtin(f.Builtin))
		case f.Chain != nil:
			p.line(f.Pos, "filter", quote(f.Name), "chain", chainText(f))
		default:
			p.line(f.Pos, "filter", quote(f.Name), "proc", quote(f.Proc), p.filterOptions(&f.Options))
		}
	}
}

func (p *printer) filterOptions(o *FilterOptions) string {
	w := []string{when(o.Bypass, "on-failure bypass"), when(o.Secrets, "auth-secrets"), when(o.RewriteEnds, "rewrite-ends")}
	if o.Timeout != 0 {
		w = append(w, "timeout "+formatDelay(o.Timeout))
	}
	for _, phase := range answerPhases {
		if d := o.Timeouts[phase]; d != 0 {
			w = append(w, "timeout "+phase+" "+formatDelay(d))
		}
	}
	return words(w...)
}

func (p *printer) builtin(b *BuiltinFilter) string {
	condition := b.Condition
	if b.Not {
		condition = "!" + condition
	}
	if b.Regex {
		condition += " regex"
	}
	action := b.Action
	if action != "junk" && action != "bypass" {
		action += " " + quoted(b.Argument)
	}
	return words("phase", b.Phase, "match", p.c.tableRef(condition, b.Table), when(b.Table == "", condition), action)
}

func (p *printer) listeners() {
	s := p.c.Socket
	p.line(s.Pos, "listen on socket", p.filterRef(s.Filter), when(s.MaskSource, "mask-src"),
		when(s.NoDSN, "no-dsn"), option("tag", s.Tag))
	for _, l := range p.c.Listeners {
		p.line(l.Pos, "listen on", quote(l.Target), p.listenerOptions(l))
	}
}

func (p *printer) listenerOptions(l *Listener) string {
	tls := [...]string{NoTLS: "", STARTTLS: "tls", RequireTLS: "tls-require", SMTPS: "smtps"}[l.TLS]
	var pki []string
	for _, name := range l.PKI {
		pki = append(pki, "pki "+quote(name))
	}
	auth := [...]string{NoAuth: "", AuthOptional: "auth-optional", AuthRequired: "auth"}[l.Auth]
	if l.AuthTable != "" {
		auth = p.c.tableRef(auth, l.AuthTable)
	}
	proxy := [...]string{NoProxy: "", ProxyV2: "proxy-v2", ProxyAny: "proxy"}[l.Proxy]
	return words(l.Family, "port", strconv.Itoa(int(l.Port)), tls, when(l.VerifyPeer, "verify"),
		words(pki...), option("ca", l.CA), option("ciphers", l.Ciphers), option("protocols", l.Protocols),
		auth, option("tag", l.Tag), option("hostname", l.Hostname), p.c.tableRef("hostnames", l.Hostnames),
		p.filterRef(l.Filter), when(l.MaskSource, "mask-src"), when(l.ReceivedAuth, "received-auth"),
		when(l.NoDSN, "no-dsn"), proxy, p.c.tableRef("from", l.ProxyFrom),
		p.c.tableRef("senders", l.Senders), when(l.Masquerade, "masquerade"))
}

func (p *printer) action(a *policy.Action) string {
	return words("action", quoted(a.Name), p.method(a), delayOption("ttl", a.TTL))
}

// method prints how an action delivers, with its options but ttl.
func (p *printer) method(a *policy.Action) string {
	var method string
	switch a.Method {
	case policy.Relay:
		return p.relay(a.Relay)
	case policy.Mbox:
		method = "mbox"
	case policy.Maildir:
		method = "maildir"
		if a.Path != "" {
			method += " " + quoted(a.Path)
		}
		method = words(method, when(a.Junk, "junk"))
	case policy.LMTP:
		method = words("lmtp", quoted(a.Dest), when(a.RcptTo, "rcpt-to"))
	case policy.Command:
		method = "mda " + quoted(a.Command)
	case policy.ForwardOnly:
		method = "forward-only"
	case policy.ExpandOnly:
		method = "expand-only"
	}
	wrapper := ""
	if a.Wrapper != "" {
		for _, name := range slices.Sorted(maps.Keys(p.c.Wrappers)) {
			if p.c.Wrappers[name] == a.Wrapper {
				wrapper = "wrapper " + quote(name)
				break
			}
		}
	}
	return words(method, p.c.tableRef("alias", a.Alias), p.c.tableRef("virtual", a.Virtual),
		p.c.tableRef("userbase", a.Userbase), option("user", a.User), wrapper)
}

func (p *printer) relay(r *policy.RelayOptions) string {
	backup := when(r.Backup, "backup")
	if r.BackupName != "" {
		backup = "backup mx " + quoted(r.BackupName)
	}
	tls := r.TLS
	switch tls {
	case "":
	case "required":
		tls = "tls"
	default:
		tls = "tls " + tls
	}
	return words("relay", backup, option("helo", r.HELO), p.c.tableRef("helo-src", r.HELOSource),
		p.c.tableRef("host", r.Host), p.c.tableRef("domain", r.Domain), p.c.tableRef("auth", r.Auth),
		when(r.Bearer, "bearer"), tls, r.Family, option("pki", r.PKI), option("ca", r.CA), option("ciphers", r.Ciphers),
		option("protocols", r.Protocols), p.c.tableRef("src", r.Source), option("mail-from", r.MailFrom),
		p.filterRef(r.Filter), when(r.SRS, "srs"))
}

// ruleText prints a rule with its defaults.
func (c *Config) ruleText(r *policy.Rule) string {
	text := "match"
	for i := range r.Conditions {
		text += " " + c.conditionText(&r.Conditions[i])
	}
	if r.Action == "" {
		return text + " reject"
	}
	return text + " action " + quoted(r.Action)
}

// conditionText prints one condition.
func (c *Config) conditionText(cond *policy.Condition) string {
	word := slotNames[cond.Kind]
	if cond.Not {
		word = "!" + word
	}
	switch {
	case cond.Kind == policy.From && cond.RDNS:
		word += " rdns"
	case cond.Kind == policy.From && (cond.How == policy.InTable || cond.How == policy.RegexIn):
		word += " src"
	case cond.Kind == policy.For && (cond.How == policy.InTable || cond.How == policy.RegexIn):
		word += " domain"
	}
	switch cond.How {
	case policy.IsAny:
		return word + " any"
	case policy.IsLocal:
		return word + " local"
	case policy.IsSocket:
		return word + " socket"
	case policy.InTable:
		return c.tableRef(word, cond.Table)
	case policy.RegexIn:
		return c.tableRef(word+" regex", cond.Table)
	}
	return word
}
