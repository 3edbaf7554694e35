package legacy

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
)

// setting reads a statement that is neither a rule nor a declaration.
func (r *reader) setting(first tok) {
	tr, st := r.tr, r.st
	text := ""
	switch first.Text {
	case "bounce-warn":
		text = r.bounceWarn()
	case "expire":
		at := r.peek()
		text = "queue ttl " + r.str("a delay like 4d").render(nil)
		tr.ttl = at.Text
	case "max-message-size", "size":
		text = "smtp max-message-size " + r.value("a size like 35M")
	case "max-mta-deferred":
		text = "mta max-deferred " + r.value("a number")
	case "ciphers":
		text = "smtp ciphers " + r.str("a list of ciphers").render(nil)
	case "subaddressing-delimiter":
		text = "smtp sub-addr-delim " + r.str("one character in quotes").render(nil)
	case "limit":
		text = r.limit()
	case "queue":
		text = r.queue()
	case "hostname":
		r.hostName()
		return
	case "enqueuer":
		r.fail(first.Pos, "enqueuer filter cannot be translated: filters of before 6.4 spoke another protocol; remove the line")
	case "include":
		r.fail(first.Pos, `syntax error: write include "PATH"`)
	default:
		r.at--
		r.unexpected("a statement of before 6.4, which begins with a word like listen, table, accept or reject")
	}
	if r.end() && text != "" {
		tr.later(func() { tr.write(st, text) })
	}
}

// value takes a string or a number.
func (r *reader) value(what string) string {
	if r.peek().Kind == config.Number {
		return r.take().render(nil)
	}
	return r.str(what).render(nil)
}

// maxDelays is how many delayed notices a message may cause; more were ignored.
const maxDelays = 4

func (r *reader) bounceWarn() string {
	first := r.peek()
	var delays []string
	for !r.atEnd() {
		delays = append(delays, r.str("a delay like 4h").render(nil))
		if !r.acceptPunct(",") {
			break
		}
	}
	switch {
	case len(delays) == 0:
		r.fail(first.Pos, "bounce-warn without a delay cannot be translated: notices about mail that waits cannot be switched off; write how long to wait for the first")
	case len(delays) > maxDelays:
		r.tr.note(first.Pos, "only the first %d delays of bounce-warn count, as ever", maxDelays)
		delays = delays[:maxDelays]
	}
	return "bounce warn-interval " + strings.Join(delays, ", ")
}

// limit reads "limit session|mda|mta|scheduler ...".
func (r *reader) limit() string {
	which := r.take()
	today := map[string]string{"session": "smtp", "mda": "mda", "mta": "mta", "scheduler": "scheduler"}[which.Text]
	if which.Kind != config.Word || today == "" {
		r.at--
		r.unexpected("session, mda, mta or scheduler")
		return ""
	}
	text := today + " limit"
	if which.Text == "mta" && r.accept("for") {
		if !r.accept("domain") {
			r.unexpected("domain")
		}
		text += " for domain " + r.str("a domain").render(nil)
	}
	for !r.atEnd() {
		switch t := r.take(); {
		case t.word("inet4", "inet6"):
			text += " " + t.Text
		case t.Kind == config.Word || t.Kind == config.Quoted || t.Kind == config.Number:
			text += " " + t.render(nil)
		default:
			r.at--
			r.unexpected("a limit and a number")
		}
	}
	return text
}

// queue reads "queue compression|encryption|interval ...".
func (r *reader) queue() string {
	tr, st := r.tr, r.st
	switch {
	case r.accept("compression"):
		if !r.atEnd() {
			if algorithm := r.str("gzip"); algorithm.Text != "gzip" {
				r.fail(algorithm.Pos, "unknown compression %q: write gzip", cut(algorithm.Text))
			}
		}
		return "queue compression"
	case r.accept("encryption"):
		if r.accept("key") {
			return "queue encryption " + r.str("a key").render(nil)
		}
		return "queue encryption"
	case r.accept("interval"):
		r.at = len(st.toks)
		tr.later(func() { tr.drop(st, "queue interval has no counterpart, mail is tried when it is due") })
		return ""
	}
	r.unexpected("compression, encryption or interval")
	return ""
}

// hostName reads the statement of before 5.3 that named this host. Listeners and
// relays get the name; the rest goes by the host's own.
func (r *reader) hostName() {
	tr, st := r.tr, r.st
	name := r.str("a host name")
	if !r.end() {
		return
	}
	tr.hostname = name.render(nil)
	tr.later(func() {
		tr.drop(st, "the name stands with the listeners and relays now; write it into the mailname file as well, for bounces and \"for local\"")
	})
}

// tableDeclaration reads "table NAME { ... }" and "table NAME [TYPE:]PATH".
func (r *reader) tableDeclaration() {
	tr, st := r.tr, r.st
	name := r.str("a name of a table")
	var t table
	source := r.peek()
	switch {
	case source.is("{"):
		t = r.table("{", false)
	case source.str():
		r.take()
		t = table{text: source.render(nil), kind: r.kind(source.Text)}
	default:
		r.unexpected("{ ... } or [TYPE:]PATH")
	}
	if !r.end() {
		return
	}
	tr.tables[name.Text] = t
	asIs := !slices.ContainsFunc(st.toks[1:], func(t tok) bool { return t.Keyword || t.is("(") })
	tr.later(func() {
		if asIs {
			tr.keep(st)
		} else {
			tr.write(st, "table "+name.name()+" "+t.text)
		}
	})
}

// kind tells what a table with the source "[TYPE:]PATH" is.
func (r *reader) kind(source string) config.TableKind {
	backend, path, _ := strings.Cut(source, ":")
	if strings.HasPrefix(source, "/") {
		backend, path = "file", source
	}
	if r.tr.opts.TableKind == nil || path == "" {
		return config.Dynamic
	}
	kind, err := r.tr.opts.TableKind(backend, path)
	if err != nil {
		return config.Dynamic // who reads the translation says what is wrong
	}
	return kind
}

// mapDeclaration reads "map NAME [{] source TYPE PATH [}]", the tables of before
// 5.3.
func (r *reader) mapDeclaration() {
	tr, st := r.tr, r.st
	tr.maps = true
	name := r.str("a name of a map")
	braces := r.acceptPunct("{")
	source := ""
	for !r.failed && !r.atEnd() && !r.peek().is("}") {
		source = r.mapOption(source)
	}
	if braces && !r.acceptPunct("}") {
		r.unexpected(`"}"`)
	}
	if !r.end() {
		return
	}
	if source == "" {
		r.fail(name.Pos, "map %s has no source: write source plain \"PATH\" or source db \"PATH\"", cut(name.Text))
		return
	}
	tr.tables[name.Text] = table{kind: r.kind(source)}
	tr.later(func() { tr.write(st, "table "+name.name()+" "+config.Quote(source)) })
}

// mapOption reads one option of a map and returns its source as far as known.
func (r *reader) mapOption(source string) string {
	t := r.take()
	switch {
	case t.str() && strings.HasPrefix(t.Text, "/"):
		return "file:" + t.Text
	case t.str() && strings.Contains(t.Text, ":/"):
		return t.Text
	case t.word("type"):
		if !r.accept("single", "list", "hash") {
			r.unexpected("single, list or hash")
		}
	case t.word("config"):
		r.str("a string")
	case t.word("source"):
		backend := r.str("plain, file, db or another source")
		if backend.word("dns", "external") {
			r.fail(backend.Pos, "source %s cannot be translated: no version had it", backend.Text)
			return source
		}
		name := backend.Text
		if name == "plain" {
			name = "file"
		}
		return name + ":" + r.str("the path of a file in quotes").Text
	default:
		r.at--
		r.unexpected("source, type or config")
	}
	return source
}

// certificates is where certificates were that a listener or relay named.
const certificates = "/etc/mail/certs"

// needCertificate returns the name of a pki for a certificate of before 5.4, and
// the line that declares it if there was none.
func (tr *translator) needCertificate(name string) (pki string, declare []string) {
	key := strings.ToLower(name)
	if !tr.pkis[key] {
		tr.pkis[key] = true
		path := filepath.Join(certificates, name)
		declare = []string{"pki " + config.Quote(name) + " cert " + config.Quote(path+".crt") + " key " + config.Quote(path+".key")}
	}
	return config.Quote(name), declare
}

// pki reads "pki NAME" with certificate, key, ca, dhe and dhparams.
func (r *reader) pki() {
	tr, st := r.tr, r.st
	name := r.str("a name")
	text := "pki " + name.render(nil)
	var more []string
	for !r.atEnd() {
		switch option := r.take(); {
		case option.word("certificate"):
			text += " cert " + r.str("the path of a file in quotes").render(nil)
		case option.word("key"):
			text += " key " + r.str("the path of a file in quotes").render(nil)
		case option.word("ca"):
			more = append(more, "ca "+name.render(nil)+" cert "+r.str("the path of a file in quotes").render(nil))
			tr.note(option.Pos, "the ca of a pki is a declaration of its own now; add \"ca %s\" to the listeners and relays that shall verify with it", name.Text)
		case option.word("dhe"):
			text += " dhe " + r.str("none, auto or legacy").render(strings.ToLower)
		case option.word("dhparams", "dh-params"):
			r.str("the path of a file in quotes")
			tr.note(option.Pos, "dhparams has no counterpart: parameters of one's own are not used any more")
		default:
			r.at--
			r.unexpected("certificate, key, ca, dhe or dhparams")
		}
	}
	if r.failed {
		return
	}
	tr.pkis[strings.ToLower(name.Text)] = true
	lines := more
	if text != "pki "+name.render(nil) || len(more) == 0 {
		lines = append([]string{text}, more...)
	}
	tr.later(func() { tr.write(st, lines...) })
}

// ca reads "ca NAME certificate FILE".
func (r *reader) ca() {
	tr, st := r.tr, r.st
	name := r.str("a name")
	if !r.accept("certificate") {
		r.unexpected("certificate")
	}
	file := r.str("the path of a file in quotes")
	if r.end() {
		tr.later(func() { tr.write(st, "ca "+name.render(nil)+" cert "+file.render(nil)) })
	}
}
