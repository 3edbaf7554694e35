package proc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Needs returns what a role does, so that the system can keep it from all else. c
// says where and as whom it runs. For delivery workers there is WorkerNeeds.
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
	return p.confine(Needs(p.Role, c))
}

// WorkerNeeds returns what a delivery worker does that writes mailboxes or talks to
// an LMTP server, as the recipient it has become already. It returns false for a
// worker that runs commands: they would inherit what confines it, and may be set-id
// programs.
func WorkerNeeds(c proto.WorkerConfig) (platform.Profile, bool) {
	p := platform.Profile{Role: string(proto.Worker), UID: -1, GID: -1, PassFD: true}
	if c.Exec || c.Wrapper != "" {
		return p, false
	}
	switch policy.Method(c.Method) {
	case policy.Mbox:
		p.Write, p.Probe = []string{"/"}, true // locks name the process that holds them
	case policy.Maildir:
		p.Write = []string{"/"} // wherever the path of the action leads
	case policy.LMTP:
		p.Inet, p.Unix, p.DNS, p.Read = true, true, true, []string{"/"}
	default:
		return p, false
	}
	return p, true
}

// ConfineWorker puts a delivery worker under its profile, if it has one.
func (p *Process) ConfineWorker(c proto.WorkerConfig) (proto.SetupReply, error) {
	need, ok := WorkerNeeds(c)
	if !p.Env.Confine || !ok {
		return proto.SetupReply{Guarantees: "none"}, nil
	}
	return p.confine(need)
}

// confine puts the process under a profile.
func (p *Process) confine(need platform.Profile) (proto.SetupReply, error) {
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
