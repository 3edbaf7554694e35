package proc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Needs returns what a role does, so that the system can keep it from all else. c
// says where and as whom it runs. Delivery workers have no profile: they run what
// users want run.
//
// A role that learns to do something more says so here. The profiles are small on
// purpose: another process that may is asked instead, by a call.
func Needs(role proto.Role, c proto.Confinement) platform.Profile {
	p := platform.Profile{
		Role: string(role), Root: c.Root, UID: c.UID, GID: c.GID, Groups: []int{c.GID},
		Read: slices.Clone(c.Read), Write: slices.Clone(c.Write),
		PassFD: true, // links to the other roles come as descriptors
	}
	switch role {
	case proto.Dispatcher:
		p.Inet = true
	case proto.Lookup:
		p.Inet, p.DNS, p.Users = true, true, true
		p.Read = append(p.Read, "/") // tables, and lists of addresses wherever aliases name them
	case proto.Queue:
		p.Write = append(p.Write, c.Root)
	case proto.Control:
		p.UnixServer = true
	}
	return p
}

// Confine puts the process under its profile, the first time it is called, and
// returns what was obtained in a form for the log.
func (p *Process) Confine(c proto.Confinement) (proto.SetupReply, error) {
	if !p.Env.Confine || c.UID < 0 {
		return proto.SetupReply{Guarantees: "none", Missing: "one process without root: no separation"}, nil
	}
	if p.confined {
		return proto.SetupReply{}, nil
	}
	need := Needs(p.Role, c)
	need.Sandbox = p.Sandbox
	g, err := p.Host.Confine(need)
	if err != nil {
		return proto.SetupReply{}, fmt.Errorf("confine: %w", err)
	}
	p.confined = true
	words := []string{fmt.Sprintf("root=%s uid=%d gid=%d", g.Root, g.UID, g.GID)}
	for _, m := range g.Mechanisms {
		words = append(words, m.Name+"="+strings.ReplaceAll(m.State, " ", ","))
	}
	return proto.SetupReply{Guarantees: strings.Join(words, " "), Missing: strings.Join(g.Missing, ", ")}, nil
}
