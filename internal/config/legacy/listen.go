package legacy

import (
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
)

// listener is a listen line of before 6.4.
type listener struct {
	target   tok
	family   string
	port     string
	tls      string // "", tls, tls-require, smtps, secure
	verify   bool
	pki, ca  string // as to be written
	cert     string // the certificate named as before 5.4
	auth     string
	tag      string
	hostname string
	rest     []string // options that stayed as they were
}

// listen reads "listen on TARGET ..." and "listen on socket ...".
func (r *reader) listen() {
	if !r.accept("on") {
		r.unexpected("on")
		return
	}
	if r.accept("socket") {
		r.listenSocket()
		return
	}
	tr, st := r.tr, r.st
	l := &listener{target: r.str("an interface, an address or a host name")}
	seen := make(map[string]bool)
	for !r.atEnd() {
		r.listenOption(l, seen)
	}
	switch {
	case r.failed:
		return
	case l.tls == "" && l.auth != "":
		r.fail(l.target.Pos, "auth requires tls, tls-require or smtps")
	case l.tls == "secure" && l.port != "":
		r.fail(l.target.Pos, "secure stands for tls on port 25 and smtps on port 465, so it takes no port: write tls or smtps")
	}
	tr.auth = tr.auth || l.auth != ""
	tr.later(func() { tr.writeListener(st, l) })
}

// listenOption reads one option.
func (r *reader) listenOption(l *listener, seen map[string]bool) {
	t := r.take()
	what := t.Text
	switch {
	case t.word("inet4", "inet6"):
		l.family, what = t.Text, "address family"
	case t.word("port"):
		l.port = r.value("a port")
	case t.word("tls", "tls-require", "smtps", "secure"):
		l.tls, what = t.Text, "TLS mode"
		if t.Text != "tls" && t.Text != "secure" {
			l.verify = r.accept("verify")
		}
	case t.word("pki"):
		l.pki = r.str("a name of a pki").render(nil)
	case t.word("ca"):
		l.ca = r.str("a name of a ca").render(nil)
	case t.word("certificate"):
		r.tr.certs = true
		l.cert = r.str("a name of a certificate").Text
	case t.word("enable"):
		if !r.accept("auth") {
			r.unexpected("auth")
		}
		l.auth, what = "auth-optional", "auth"
	case t.word("auth", "auth-optional"):
		l.auth, what = t.Text, "auth"
		if r.tableAhead() {
			l.auth += " " + r.table("a table", true).text
		}
	case t.word("tag"):
		l.tag = r.str("a tag").render(nil)
	case t.word("hostname"):
		l.hostname = "hostname " + r.str("a host name").render(nil)
	case t.word("hostnames"):
		l.rest = append(l.rest, "hostnames "+r.table("a table", true).text)
	case t.word("senders"):
		text := "senders " + r.table("a table", true).text
		if r.accept("masquerade") {
			text += " masquerade"
		}
		l.rest = append(l.rest, text)
	case t.word("mask-source"):
		l.rest = append(l.rest, "mask-src")
	case t.word("received-auth", "no-dsn"):
		l.rest = append(l.rest, t.Text)
	case t.word("filter"):
		r.fail(t.Pos, "filter cannot be translated: filters of before 6.4 spoke another protocol; remove it from the line")
	case t.word("curve"):
		r.str("a name of a curve")
		r.tr.note(t.Pos, "curve has no counterpart: the curves are chosen by both sides")
	case t.word("dsn-notify", "dsn-ret"):
		r.fail(t.Pos, "%s has no counterpart; remove it from the line", t.Text)
	default:
		r.at--
		r.unexpected("an option of a listener")
	}
	r.once(seen, t, what)
}

// listenSocket reads the options of the local socket.
func (r *reader) listenSocket() {
	tr, st := r.tr, r.st
	text := "listen on socket"
	for !r.atEnd() {
		switch t := r.take(); {
		case t.word("mask-source"):
			text += " mask-src"
		case t.word("filter"):
			r.fail(t.Pos, "filter cannot be translated: filters of before 6.4 spoke another protocol; remove it from the line")
		default:
			r.at--
			r.unexpected("mask-source")
		}
	}
	if r.failed {
		return
	}
	tr.socket = true
	tr.later(func() {
		if tr.localTag {
			text += ` tag "local"`
		}
		tr.write(st, text)
	})
}

// writeListener writes a listener; with secure it is two.
func (tr *translator) writeListener(st *statement, l *listener) {
	pki, declare, ok := tr.listenerPKI(l)
	if !ok {
		tr.errorf(l.target.Pos, `%s without a certificate: declare one with "pki NAME" and add "pki NAME" to the line`, l.tls)
		return
	}
	tag := l.tag
	if tag == "" && tr.onTags[l.target.Text] {
		tag = config.Quote(l.target.Text)
	}
	hostname := l.hostname
	if hostname == "" && tr.hostname != "" {
		hostname = "hostname " + tr.hostname
	}
	lines := declare
	modes := []string{l.tls}
	if l.tls == "secure" {
		modes = []string{"tls", "smtps"}
	}
	for _, mode := range modes {
		lines = append(lines, words("listen on "+l.target.render(nil), l.family, option("port", l.port), mode, when(l.verify, "verify"),
			option("pki", pki), option("ca", l.ca), l.auth, option("tag", tag), hostname, strings.Join(l.rest, " ")))
	}
	tr.write(st, lines...)
}

// listenerPKI returns the pki of a listener, as to be written, and the line that
// declares it. Listeners did not need to name theirs.
func (tr *translator) listenerPKI(l *listener) (pki string, declare []string, ok bool) {
	switch {
	case l.tls == "" || l.pki != "":
		return l.pki, nil, true
	case l.cert != "":
		pki, declare = tr.needCertificate(l.cert)
	case tr.maps || tr.certs:
		pki, declare = tr.needCertificate(l.target.Text)
	case tr.pkis[strings.ToLower(tr.opts.ServerName)]:
		pki = config.Quote(strings.ToLower(tr.opts.ServerName))
	case tr.pkis["*"]:
		pki = config.Quote("*")
	case len(tr.pkis) == 1:
		for name := range tr.pkis {
			pki = config.Quote(name)
		}
		tr.note(l.target.Pos, "%s without a pki: the only one there is, %s, is used", l.tls, pki)
	}
	return pki, declare, pki != ""
}

// words joins what is not empty.
func words(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, " ")
}

// option returns "WORD VALUE" when there is a value.
func option(word, value string) string {
	if value == "" {
		return ""
	}
	return word + " " + value
}

// when returns a word when on.
func when(on bool, word string) string {
	if on {
		return word
	}
	return ""
}
