package config

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// defaults is a configuration before any statement.
func defaults(serverName string) *Config {
	return &Config{
		ServerName: serverName,
		Wrappers:   make(map[string]string),
		Bounce:     BounceConfig{WarnIntervals: []time.Duration{4 * time.Hour}, MaxPerMinute: 60},
		MDA:        MDALimits{MaxSession: 50, MaxSessionPerUser: 7, TaskHiwat: 50, TaskLowat: 30, TaskRelease: 10},
		MTA:        MTAConfig{MaxDeferred: 100, Default: defaultMTALimits()},
		Scheduler:  SchedulerLimits{MaxInflight: 5000, MaxSchedule: 10, MaxEnvelopeBatch: 256, MaxMessageBatch: 1024},
		Queue: QueueConfig{
			TTL:           4 * 24 * time.Hour,
			ReserveSpace:  5,
			ReserveInodes: 5,
			RetryMDA:      10 * time.Second,
			RetryMTA:      400 * time.Second,
		},
		SMTP: SMTPConfig{
			MaxMails:             100,
			MaxRcpt:              1000,
			MaxMessageSize:       35 << 20,
			SubAddrDelim:         "+",
			MaxSessionsPerSource: 256,
			MaxErrors:            20,
			MaxAuthFailures:      5,
			MinRate:              100,
		},
		SRS: SRSConfig{TTLDays: 4},
	}
}

// mtaLimit is the default of one relay limit, and the least value it may have.
type mtaLimit struct {
	key        string
	def, least int64
}

// mtaLimitKeys are the relay limits in the order they are printed. Delays and
// the keep-alive are in seconds.
var mtaLimitKeys = []mtaLimit{
	{"max-conn-per-host", 10, 1},
	{"max-conn-per-route", 5, 1},
	{"max-conn-per-source", 100, 1},
	{"max-conn-per-connector", 20, 1},
	{"max-conn-per-relay", 100, 1},
	{"max-conn-per-domain", 100, 1},
	{"conn-delay-host", 0, 0},
	{"conn-delay-route", 0, 0},
	{"conn-delay-source", 0, 0},
	{"conn-delay-connector", 0, 0},
	{"conn-delay-relay", 0, 0},
	{"conn-delay-domain", 0, 0},
	{"reconn-delay-route", 0, 0},
	{"session-mail-max", 1000, 1},
	{"session-transaction-delay", 0, 0},
	{"session-keepalive", 10, 0},
	{"max-failures-per-session", 25, 1},
	{"task-hiwat", 200, 1},
	{"task-lowat", 100, 0},
	{"task-release", 100, 1},
	{"max-messages-per-minute", 0, 0},
	{"max-rcpt-per-transaction", 100, 1},
}

func defaultMTALimits() MTALimits {
	l := MTALimits{Values: make(map[string]int64)}
	for _, k := range mtaLimitKeys {
		l.Values[k.key] = k.def
	}
	return l
}

// Changed returns the limits that are not the defaults.
func (l *MTALimits) Changed() map[string]int64 {
	out := map[string]int64{}
	for _, k := range mtaLimitKeys {
		if v := l.Values[k.key]; v != k.def {
			out[k.key] = v
		}
	}
	return out
}

// builtinTables are the tables that exist before any statement.
func builtinTables(serverName string, addresses []netip.Addr) []*Table {
	names := []string{"localhost", strings.ToLower(serverName)}
	if short, _, dotted := strings.Cut(serverName, "."); dotted && short != "" {
		if _, err := netip.ParseAddr(serverName); err != nil {
			names = append(names, strings.ToLower(short))
		}
	}
	hosts := []string{"local"}
	for _, a := range addresses {
		a = a.WithZone("").Unmap()
		if a.Is6() {
			hosts = append(hosts, "["+a.String()+"]")
			names = append(names, a.String(), "["+a.String()+"]", "[ipv6:"+a.String()+"]")
		} else {
			hosts = append(hosts, a.String())
			names = append(names, a.String(), "["+a.String()+"]")
		}
	}
	static := func(name string, keys ...string) *Table {
		t := &Table{Name: name, Backend: "static", Kind: List}
		seen := make(map[string]bool)
		for _, k := range keys {
			if !seen[k] {
				seen[k] = true
				t.Entries = append(t.Entries, Entry{Key: k})
			}
		}
		return t
	}
	return []*Table{
		static("<localnames>", names...),
		static("<localhost>", hosts...),
		static("<anyhost>", "local", "0.0.0.0/0", "::/0"),
		static("<anydestination>", "*"),
		{Name: "<getpwnam>", Backend: "getpwnam", Kind: Dynamic},
	}
}

// anonymous tells whether t was written where it is used.
func (t *Table) anonymous() bool { return strings.HasPrefix(t.Name, "<dynamic:") }

// builtin tells whether t exists without a declaration.
func (t *Table) builtin() bool { return strings.HasPrefix(t.Name, "<") && !t.anonymous() }

// limits reads "KEY NUMBER" pairs up to the end of the line. field returns where
// a key's value goes and its least value, or nil.
func (p *parser) limits(which string, field func(key string) (value *int, least int64)) {
	for !p.atEnd() {
		t := p.peek()
		key := p.str("a limit's name")
		n := p.num("a number for " + cut(key))
		if p.failed {
			return
		}
		value, least := field(key)
		if value == nil {
			p.errorf(t.pos, "invalid %s limit keyword: %s", which, cut(key))
			continue
		}
		if p.inRange(t, n, least, math.MaxInt32) {
			*value = int(n)
		}
	}
}

// inRange reports a number outside of least and most.
func (p *parser) inRange(key token, n, least, most int64) bool {
	if n < least || n > most {
		p.errorf(key.pos, "%s must be from %d to %d, not %d", cut(key.text), least, most, n)
		return false
	}
	return true
}

// mda reads "mda limit ..." and "mda wrapper NAME COMMAND".
func (p *parser) mda(token) {
	switch {
	case p.accept("limit"):
		m := &p.cfg.MDA
		p.limits("mda", func(key string) (*int, int64) {
			switch key {
			case "max-session":
				return &m.MaxSession, 1
			case "max-session-per-user":
				return &m.MaxSessionPerUser, 1
			case "task-hiwat":
				return &m.TaskHiwat, 1
			case "task-lowat":
				return &m.TaskLowat, 0
			case "task-release":
				return &m.TaskRelease, 1
			}
			return nil, 0
		})
	case p.accept("wrapper"):
		t := p.peek()
		name := p.str("a name of a wrapper")
		command := p.str("a command in quotes")
		if p.failed {
			p.broken["wrapper "+name] = true
			return
		}
		if _, there := p.cfg.Wrappers[name]; there {
			p.errorf(t.pos, "mda wrapper %q already declared", cut(name))
			return
		}
		p.cfg.Wrappers[name] = command
	default:
		p.syntaxError("expected limit or wrapper")
	}
}

// mta reads "mta max-deferred N" and "mta limit [for domain NAME] ...".
func (p *parser) mta(token) {
	switch {
	case p.accept("max-deferred"):
		t := p.peek()
		n := p.num("a number")
		t.text = "max-deferred"
		if !p.failed && p.inRange(t, n, 0, math.MaxInt32) {
			p.cfg.MTA.MaxDeferred = int(n)
		}
	case p.accept("limit"):
		limits := &p.cfg.MTA.Default
		if p.accept("for") {
			p.expect("domain")
			name := p.str("a domain")
			if p.failed {
				return
			}
			limits = p.domainLimits(strings.ToLower(name))
		}
		p.mtaLimits(limits)
	default:
		p.syntaxError("expected limit or max-deferred")
	}
}

// domainLimits returns the limits of a domain; at first they are those that hold
// for all.
func (p *parser) domainLimits(domain string) *MTALimits {
	for i := range p.cfg.MTA.Domains {
		if d := &p.cfg.MTA.Domains[i]; d.Domain == domain {
			return &d.MTALimits
		}
	}
	l := MTALimits{Family: p.cfg.MTA.Default.Family, Values: make(map[string]int64)}
	for k, v := range p.cfg.MTA.Default.Values {
		l.Values[k] = v
	}
	p.cfg.MTA.Domains = append(p.cfg.MTA.Domains, DomainLimits{Domain: domain, MTALimits: l})
	return &p.cfg.MTA.Domains[len(p.cfg.MTA.Domains)-1].MTALimits
}

// mtaLimits reads families and "KEY NUMBER" pairs.
func (p *parser) mtaLimits(l *MTALimits) {
	for !p.atEnd() {
		switch {
		case p.accept("inet4"):
			l.Family = "inet4"
			continue
		case p.accept("inet6"):
			l.Family = "inet6"
			continue
		}
		t := p.peek()
		key := p.str("a limit's name, inet4 or inet6")
		n := p.num("a number for " + cut(key))
		if p.failed {
			return
		}
		known := false
		for _, k := range mtaLimitKeys {
			if k.key == key {
				known = true
				if p.inRange(t, n, k.least, math.MaxInt32) {
					l.Values[key] = n
				}
			}
		}
		if !known {
			p.errorf(t.pos, "invalid mta limit keyword: %s", cut(key))
		}
	}
}

// scheduler reads "scheduler limit ...".
func (p *parser) scheduler(token) {
	if !p.expect("limit") {
		return
	}
	s := &p.cfg.Scheduler
	p.limits("scheduler", func(key string) (*int, int64) {
		switch key {
		case "max-inflight":
			return &s.MaxInflight, 1
		case "max-schedule":
			return &s.MaxSchedule, 1
		case "max-evp-batch-size":
			return &s.MaxEnvelopeBatch, 1
		case "max-msg-batch-size":
			return &s.MaxMessageBatch, 1
		}
		return nil, 0
	})
}

// queue reads the statements about stored mail.
func (p *parser) queue(token) {
	q := &p.cfg.Queue
	switch {
	case p.accept("compression"):
		q.Compression = "gzip"
		if p.atEnd() || p.acceptBare("gzip") {
			return
		}
		if !p.acceptBare("zstd") {
			p.syntaxError("expected gzip, zstd or the end of the line")
			return
		}
		q.Compression = "zstd"
	case p.accept("encryption"):
		p.queueEncryption(q)
	case p.accept("ttl"):
		q.TTL = p.delay("invalid ttl delay: %s")
	case p.acceptBare("reserve"):
		p.queueReserve(q)
	case p.acceptBare("retry"):
		var base *time.Duration
		switch {
		case p.accept("mda"):
			base = &q.RetryMDA
		case p.accept("mta"):
			base = &q.RetryMTA
		default:
			p.syntaxError("expected mda or mta")
			return
		}
		*base = p.delay("invalid retry delay: %s")
	default:
		p.syntaxError("expected compression, encryption, ttl, reserve or retry")
	}
}

// queueKeyLen is the length of the key of the queue's encryption, in bytes.
const queueKeyLen = 32

// queueEncryption reads what follows "queue encryption".
func (p *parser) queueEncryption(q *QueueConfig) {
	q.Encryption, q.Key, q.KeyFile = KeyAsk, "", ""
	if p.atEnd() {
		return
	}
	t := p.peek()
	s := p.str("a key, stdin, or file PATH")
	switch {
	case p.failed:
	case t.bare("file") && !p.atEnd():
		at := p.peek()
		q.Encryption, q.KeyFile = KeyInFile, p.filePath()
		if !p.failed && !strings.HasPrefix(q.KeyFile, credentialPrefix) && !strings.HasPrefix(q.KeyFile, "/") {
			p.errorf(at.pos, `the path of the queue's key must begin with "/"`)
		}
	case s == "stdin" || s == "-":
		q.Encryption = KeyStdin
	case len(s) != queueKeyLen:
		p.errorf(t.pos, "invalid key for queue encryption: it must be exactly %d bytes, not %d", queueKeyLen, len(s))
	default:
		q.Encryption, q.Key = KeyInline, s
	}
}

// queueReserve reads "space PERCENT" and "inodes PERCENT".
func (p *parser) queueReserve(q *QueueConfig) {
	for first := true; first || !p.atEnd(); first = false {
		t := p.peek()
		var field *int
		switch {
		case p.acceptBare("space"):
			field = &q.ReserveSpace
		case p.acceptBare("inodes"):
			field = &q.ReserveInodes
		default:
			p.syntaxError("expected space or inodes")
			return
		}
		n := p.percent()
		if !p.failed && p.inRange(t, n, 0, 99) {
			*field = int(n)
		}
	}
}

// percent takes a number, with or without a percent sign.
func (p *parser) percent() int64 {
	if t := p.peek(); t.kind == tokString {
		if digits, ok := strings.CutSuffix(t.text, "%"); ok && allDigits(digits) {
			if n, err := strconv.ParseInt(digits, 10, 32); err == nil {
				p.take()
				return n
			}
		}
	}
	return p.num("a number of percent")
}

// smtp reads the statements that hold for all listeners.
func (p *parser) smtp(token) {
	s := &p.cfg.SMTP
	switch {
	case p.accept("ciphers"):
		s.Ciphers = p.str("a list of ciphers in quotes")
	case p.accept("max-message-size"):
		t := p.peek()
		s.MaxMessageSize = p.byteSize()
		if !p.failed && t.text == "0" {
			p.errorf(t.pos, "invalid size: 0 would refuse all mail")
		}
	case p.accept("sub-addr-delim"):
		t := p.peek()
		d := p.str("one character in quotes")
		switch {
		case p.failed:
		case len(d) != 1:
			p.errorf(t.pos, "subaddressing-delimiter must be one character")
		case d[0] <= ' ' || d[0] > '~' || d[0] == '@':
			p.errorf(t.pos, "sub-addr-delim uses invalid character %q", d)
		default:
			s.SubAddrDelim = d
		}
	case p.accept("limit"):
		p.limits("session", s.limit)
	case p.acceptBare("bare-newline"):
		switch {
		case p.accept("reject"):
			s.BareNewline = RejectBareNewline
		case p.acceptBare("normalize"):
			s.BareNewline = NormalizeBareNewline
		default:
			p.syntaxError("expected reject or normalize")
		}
	default:
		p.syntaxError("expected bare-newline, ciphers, limit, max-message-size or sub-addr-delim")
	}
}

// limit returns the field of an "smtp limit" key and its least value, or nil.
func (s *SMTPConfig) limit(key string) (*int, int64) {
	switch key {
	case "max-mails":
		return &s.MaxMails, 1
	case "max-rcpt":
		return &s.MaxRcpt, 1
	case "max-session":
		return &s.MaxSessions, 0
	case "max-session-per-source":
		return &s.MaxSessionsPerSource, 0
	case "max-errors":
		return &s.MaxErrors, 0
	case "max-auth-failures":
		return &s.MaxAuthFailures, 0
	case "min-rate":
		return &s.MinRate, 0
	}
	return nil, 0
}
