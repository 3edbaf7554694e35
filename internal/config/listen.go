package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Bounds of a listener.
const (
	maxTag = 32 // bytes of a tag
	maxPKI = 32 // certificates of one listener
)

// listen reads "listen on socket ..." and "listen on TARGET ...".
func (p *parser) listen(kw token) {
	if !p.expect("on") {
		return
	}
	if p.accept("socket") {
		p.listenSocket(kw)
		return
	}
	at := p.peek()
	if at.word("any") {
		p.syntaxError(`write "listen on all"`)
		return
	}
	l := &Listener{Pos: kw.pos, Target: p.str("an interface, an address, a host name, all or socket")}
	o := listenOptions{p: p, l: l, seen: make(map[string]bool)}
	for !p.atEnd() {
		o.option()
	}
	if p.failed {
		return
	}
	o.finish(at, kw)
	p.cfg.Listeners = append(p.cfg.Listeners, l)
}

// listenSocket reads the options of the local socket.
func (p *parser) listenSocket(kw token) {
	s := SocketListener{Pos: kw.pos}
	seen := make(map[string]bool)
	for !p.atEnd() {
		t := p.peek()
		switch {
		case p.accept("filter"):
			s.Filter = p.filterUse()
		case p.accept("mask-src"):
			s.MaskSource = true
		case p.accept("no-dsn"):
			s.NoDSN = true
		case p.accept("tag"):
			s.Tag = p.tag()
		default:
			p.syntaxError("expected filter, mask-src, no-dsn or tag")
		}
		p.once(seen, t, t.text, "")
	}
	if p.failed {
		return
	}
	if p.socket {
		p.errorf(kw.pos, "socket listener already configured in %s:%d", p.cfg.Socket.Pos.File, p.cfg.Socket.Pos.Line)
		return
	}
	p.socket, p.cfg.Socket = true, s
}

// once reports the second use of what an option sets. where completes the
// message.
func (p *parser) once(seen map[string]bool, t token, what, where string) {
	if p.failed {
		return
	}
	if seen[what] {
		p.errorf(t.pos, "%s already specified%s", what, where)
	}
	seen[what] = true
}

// tag takes a listener's tag.
func (p *parser) tag() string {
	t := p.peek()
	tag := p.str("a tag in quotes")
	if len(tag) > maxTag {
		p.errorf(t.pos, "tag name too long: at most %d bytes", maxTag)
	}
	return tag
}

// listenOptions reads the options of one listener.
type listenOptions struct {
	p      *parser
	l      *Listener
	seen   map[string]bool
	authAt token
	pkiAt  []token
}

// option reads one option.
func (o *listenOptions) option() {
	p, l := o.p, o.l
	t := p.peek()
	what := t.text
	switch {
	case p.accept("inet4"), p.accept("inet6"):
		what, l.Family = "address family", t.text
	case p.accept("port"):
		l.Port = p.port()
	case p.accept("filter"):
		l.Filter = p.filterUse()
	case t.word("smtps"), t.word("tls"), t.word("tls-require"):
		what = "TLS mode"
		o.tls()
	case p.accept("ciphers"):
		l.Ciphers = p.str("a list of ciphers in quotes")
	case p.accept("protocols"):
		l.Protocols = p.str("a list of protocols in quotes")
	case p.accept("pki"):
		o.pki()
		return
	case p.accept("ca"):
		at := p.peek()
		l.CA = strings.ToLower(p.name("a name of a ca"))
		p.needCA(at, l.CA)
	case p.accept("auth"), p.accept("auth-optional"):
		what, o.authAt, l.Auth = "auth", t, AuthRequired
		if t.text == "auth-optional" {
			l.Auth = AuthOptional
		}
		if p.tableAhead() && !p.peek().bare("proxy") {
			l.AuthTable = p.tableParameter("AUTH", keyValues)
		}
	case p.accept("tag"):
		l.Tag = p.tag()
	case p.accept("hostname"):
		l.Hostname = p.announced()
	case p.accept("hostnames"):
		l.Hostnames = p.tableParameter("HOSTNAMES", keyValues)
	case p.accept("mask-src"):
		what, l.MaskSource = "mask-source", true
	case p.accept("received-auth"):
		l.ReceivedAuth = true
	case p.accept("no-dsn"):
		l.NoDSN = true
	case p.accept("proxy-v2"):
		l.Proxy = ProxyV2
		o.proxyFrom(t)
	case p.acceptBare("proxy"):
		what, l.Proxy = "proxy-v2", ProxyAny
		o.proxyFrom(t)
	case p.accept("senders"):
		l.Senders = p.tableParameter("SENDERS", keyValues)
		l.Masquerade = p.accept("masquerade")
	default:
		p.syntaxError("expected an option of a listener: auth, auth-optional, ca, ciphers, filter, hostname, hostnames, inet4, inet6, mask-src, no-dsn, pki, port, protocols, proxy, proxy-v2, received-auth, senders, smtps, tag, tls or tls-require")
		return
	}
	p.once(o.seen, t, what, "")
}

// tls reads a TLS mode.
func (o *listenOptions) tls() {
	p, l := o.p, o.l
	switch mode := p.take(); mode.text {
	case "smtps":
		l.TLS = SMTPS
	case "tls":
		l.TLS = STARTTLS
		return
	case "tls-require":
		l.TLS = RequireTLS
	}
	l.VerifyPeer = p.accept("verify")
}

// pki reads the name of one more certificate.
func (o *listenOptions) pki() {
	p, l := o.p, o.l
	t := p.peek()
	name := strings.ToLower(p.name("a name of a pki"))
	switch {
	case len(l.PKI) == maxPKI:
		p.errorf(t.pos, "too many pki specified: at most %d", maxPKI)
		p.failed = true
	default:
		l.PKI = append(l.PKI, name)
		o.pkiAt = append(o.pkiAt, t)
		p.needPKI(t, name)
	}
}

// proxyFrom reads who may send a PROXY header.
func (o *listenOptions) proxyFrom(t token) {
	if o.p.accept("from") {
		o.l.ProxyFrom = o.p.tableParameter("PROXY", keysOnly)
	} else {
		o.p.warnf(t.pos, "%s trusts the header of anyone who can connect: add \"from TABLE\" with the addresses of the proxies", t.text)
	}
}

// finish checks what concerns several options of a listener, and its target.
func (o *listenOptions) finish(target, kw token) {
	p, l := o.p, o.l
	switch {
	case l.TLS == NoTLS && l.Auth != NoAuth:
		p.errorf(o.authAt.pos, "invalid listen option: auth requires tls/smtps: add tls-require or smtps, and pki")
	case l.TLS == NoTLS && len(l.PKI) > 0:
		p.errorf(o.pkiAt[0].pos, "invalid listen option: pki requires tls/smtps: add tls, tls-require or smtps")
	case l.TLS != NoTLS && len(l.PKI) == 0:
		p.errorf(kw.pos, "invalid listen option: pki required for tls/smtps: add \"pki NAME\"")
	}
	if !o.seen["port"] {
		l.Port = 25
		if l.TLS == SMTPS {
			l.Port = 465
		}
	} else if l.Port == 465 && l.TLS != SMTPS {
		p.warnf(kw.pos, "port 465 is for TLS from the first byte: clients expect smtps here")
	}
	if a, err := netip.ParseAddr(l.Target); err == nil && l.Family != "" && a.Is4() != (l.Family == "inet4") {
		p.errorf(target.pos, "invalid listen option: %s is no %s address", l.Target, l.Family)
	}
	if l.Target == "all" || l.Target == "egress" || p.opts.ResolveTarget == nil {
		return
	}
	if err := p.opts.ResolveTarget(l.Target); err != nil {
		p.errorf(target.pos, "invalid virtual ip or interface: %s: %v", cut(l.Target), err)
	}
}

// services are the ports known without asking the host.
var services = map[string]uint16{"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587, "lmtp": 24}

// port takes a port: a number or the name of a service.
func (p *parser) port() uint16 {
	t := p.peek()
	switch {
	case t.kind == tokNumber:
		p.take()
		if t.num < 1 || t.num > 65535 {
			p.errorf(t.pos, "invalid port: %d: it must be from 1 to 65535", t.num)
			return 0
		}
		return uint16(t.num)
	case t.word("smtp"), t.word("smtps"), t.kind == tokString:
		p.take()
		port, err := p.service(t.text)
		if err != nil {
			p.errorf(t.pos, "invalid port: %s: %v", cut(t.text), err)
		}
		return port
	}
	p.syntaxError("expected a port number or the name of a service")
	return 0
}

func (p *parser) service(name string) (uint16, error) {
	if port := services[name]; port != 0 {
		return port, nil
	}
	if p.opts.LookupService == nil {
		return 0, fmt.Errorf("unknown service")
	}
	return p.opts.LookupService(name)
}

// needPKI checks, when all is read, that a certificate named here is declared
// and complete.
func (p *parser) needPKI(t token, name string) {
	if p.failed {
		return
	}
	p.later = append(p.later, func() {
		k := p.pkis[name]
		switch {
		case p.broken["pki "+name]:
		case k == nil:
			p.errorf(t.pos, "pki name not found: %s: declare it with \"pki %s cert ... key ...\"", cut(name), quote(cut(name)))
		case k.Cert == "":
			p.errorf(t.pos, "pki %s has no certificate: add \"pki %s cert FILE\"", cut(name), quote(cut(name)))
		case k.Key == "":
			p.errorf(t.pos, "pki %s has no key: add \"pki %s key FILE\"", cut(name), quote(cut(name)))
		}
	})
}

// needCA checks, when all is read, that a certificate authority is declared.
func (p *parser) needCA(t token, name string) {
	if p.failed {
		return
	}
	p.later = append(p.later, func() {
		if p.cas[name] == nil && !p.broken["ca "+name] {
			p.errorf(t.pos, "ca name not found: %s: declare it with \"ca %s cert FILE\"", cut(name), quote(cut(name)))
		}
	})
}
