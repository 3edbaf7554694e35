package config

import "strings"

// credentialPrefix begins a path that names a secret which the service manager
// passes to the daemon.
const credentialPrefix = "credential:"

// filePath takes the path of a file that must come next.
func (p *parser) filePath() string {
	t := p.peek()
	s := p.str("the path of a file in quotes")
	if p.failed {
		return s
	}
	return p.credential(t, s)
}

// credential returns the path of a secret that s names as "credential:NAME", else s.
func (p *parser) credential(at token, s string) string {
	name, ok := strings.CutPrefix(s, credentialPrefix)
	switch {
	case !ok:
		return s
	case name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00"):
		p.errorf(at.pos, "invalid credential: %s: write credential: and the name that the service manager knows it by", cut(s))
	case p.opts.Credentials == "":
		p.errorf(at.pos, "no credential %s: the service manager has passed none", cut(name))
	default:
		return p.opts.Credentials + "/" + name
	}
	return s
}
