package expand

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/ruleset"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/srs"
	"github.com/opensmtpd/opensmtpd/table"
)

// node is one step of an expansion.
type node struct {
	target Target
	parent *node
	depth  int

	addr   *node          // nearest address at or above this node
	rule   *policy.Rule   // of addr
	action *policy.Action // of addr

	sameUser  bool // a user name whose parent is the same user
	forwarded bool // a user name whose ~/.forward was read
	user      *userInfo
}

// userInfo is a row of the userbase.
type userInfo struct {
	name, tag string
	uid, gid  int
	home      string
}

// walk is one expansion.
type walk struct {
	x         *Expander
	facts     *policy.Facts
	delim     string
	queue     []*node
	seen      seen
	forwarded int // nodes that stem from ~/.forward files
	pos       policy.Position
	out       []*envelope.Envelope
}

// run takes nodes off the queue until it is empty or one fails.
func (w *walk) run(ctx context.Context) error {
	root := &node{target: Target{Kind: ToAddress, Addr: w.facts.Rcpt}}
	if err := w.push(root, false); err != nil {
		return err
	}
	for i := 0; i < len(w.queue); i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := w.queue[i]
		w.queue[i] = nil
		if err := w.step(ctx, n); err != nil {
			if n.rule != nil {
				w.pos = n.rule.Pos
			}
			return err
		}
	}
	if len(w.out) == 0 {
		if root.rule != nil {
			w.pos = root.rule.Pos
		}
		return w.failf(listPerm, "expands to nothing")
	}
	return nil
}

// step handles one node.
func (w *walk) step(ctx context.Context, n *node) error {
	if n.depth >= MaxDepth {
		return w.failf(listPerm, "more than %d levels of aliases", MaxDepth)
	}
	switch n.target.Kind {
	case ToAddress:
		return w.address(ctx, n)
	case ToUser:
		return w.username(ctx, n)
	case ToFile, ToCommand:
		return w.exec(n)
	case ToError:
		if n.action.Method == policy.ForwardOnly {
			return w.failf(listTemp, "an error target under forward-only")
		}
		e := *n.target.Error
		e.Text += w.suffix()
		return &e
	}
	return w.failf(listTemp, "cannot expand %s", n.target)
}

// add puts targets below a node into the queue, without duplicates.
func (w *walk) add(ctx context.Context, parent *node, targets []Target, fromForward bool) error {
	for _, t := range targets {
		switch t.Kind {
		case ToInclude:
			if fromForward {
				continue
			}
			listed, err := w.include(ctx, t.Text)
			if err != nil {
				return err
			}
			if err := w.add(ctx, parent, listed, false); err != nil {
				return err
			}
			continue
		case ToDomain:
			if parent.addr == nil {
				return w.failf(listTemp, "%s outside of an address", t)
			}
			t = Target{Kind: ToAddress, Addr: smtp.Path{Local: parent.addr.target.Addr.Local, Domain: t.Addr.Domain}}
		}
		if fromForward && sameAddress(t, parent.addr) {
			// The user's own address in his .forward asks for a copy, as his name does.
			t = Target{Kind: ToUser, Text: parent.target.Text}
		}
		n := &node{target: t, parent: parent, depth: parent.depth + 1,
			addr: parent.addr, rule: parent.rule, action: parent.action}
		if t.Kind == ToUser && parent.target.Kind == ToUser {
			n.sameUser = strings.EqualFold(table.CutTag(t.Text, w.delim), table.CutTag(parent.target.Text, w.delim))
		}
		if err := w.push(n, fromForward); err != nil {
			return err
		}
	}
	return nil
}

// push appends a node unless it was seen, within the bounds.
func (w *walk) push(n *node, fromForward bool) error {
	if w.seen.add(keyOf(n)) {
		return nil
	}
	if fromForward {
		if w.forwarded++; w.forwarded > MaxForwardNodes {
			return w.failf(listTemp, "more than %d targets in .forward files", MaxForwardNodes)
		}
	}
	if len(w.queue) >= MaxNodes {
		return w.failf(listPerm, "more than %d targets", MaxNodes)
	}
	w.queue = append(w.queue, n)
	return nil
}

// address asks the rules what becomes of an address.
func (w *walk) address(ctx context.Context, n *node) error {
	a := n.target.Addr
	n.rule, n.action = nil, nil
	if !validRcpt(a) {
		return w.failf(malformed, "malformed address %q", a.String())
	}
	f := w.facts
	if n.depth > 0 {
		internal := *f
		internal.Rcpt, internal.Internal = a, true
		f = &internal
	}
	if f.Sender.IsNull() && w.x.SRS != nil && srs.Looks(a) {
		origin, err := w.x.SRS.Reverse(a)
		if err == nil {
			return w.push(&node{target: Target{Kind: ToAddress, Addr: origin}, parent: n, depth: n.depth + 1}, false)
		}
		w.x.warn(fmt.Errorf("SRS failed to decode: %s: %w", a, err))
	}
	rule, err := ruleset.Match(ctx, w.x.Rules, w.x.Tables, f)
	if err != nil {
		return w.fail(temporary, err)
	}
	if rule == nil && n.depth == 0 {
		return w.failf(refused, "%w %s", ErrNoRule, a)
	}
	if rule == nil {
		return w.failf(refused, "no rule matches %s, which the recipient expands to", a)
	}
	n.rule, n.addr = rule, n
	if rule.Action == "" {
		return w.failf(refused, "refused by rule %s", rule.Pos)
	}
	n.action = w.x.Actions[rule.Action]
	if n.action == nil {
		return w.failf(temporary, "no action %q", rule.Action)
	}
	if n.action.Method == policy.Relay {
		w.emit(n, envelope.MTA)
		return nil
	}
	if n.action.Virtual != "" {
		return w.virtual(ctx, n)
	}
	if strings.Contains(a.Local, "@") {
		return w.failf(unknown, "no user %q", a.Local)
	}
	return w.add(ctx, n, []Target{{Kind: ToUser, Text: strings.ToLower(a.Local)}}, false)
}

// validRcpt refuses what no table or agent should ever see.
func validRcpt(p smtp.Path) bool {
	for _, s := range [2]string{p.Local, p.Domain} {
		if s == "" || len(s) > 255 || !utf8.ValidString(s) {
			return false
		}
		for i := 0; i < len(s); i++ {
			if s[i] < ' ' || s[i] == 0x7f {
				return false
			}
		}
	}
	return true
}

// virtual expands an address by a table of virtual users.
func (w *walk) virtual(ctx context.Context, n *node) error {
	a := n.target.Addr
	a.Domain = strings.TrimSuffix(a.Domain, ".")
	locals := []string{a.Local}
	if base := table.CutTag(a.Local, w.delim); base != a.Local {
		locals = append(locals, base)
	}
	keys := make([]string, 0, 6)
	for _, l := range locals {
		keys = append(keys, l+"@"+a.Domain)
	}
	for _, l := range locals {
		if !strings.Contains(l, "@") { // "u@x"@y must not be taken for u@x
			keys = append(keys, l)
		}
	}
	keys = append(keys, "@"+a.Domain, "@")
	targets, found, err := w.alias(ctx, n.action.Virtual, keys)
	if err != nil {
		return err
	}
	if !found {
		return w.failf(unknown, "%s is not in table %s", a, n.action.Virtual)
	}
	return w.add(ctx, n, targets, false)
}

// alias looks the keys up in turn and reads the first value found.
func (w *walk) alias(ctx context.Context, name string, keys []string) ([]Target, bool, error) {
	t := w.x.Tables(name)
	if t == nil {
		return nil, false, w.failf(temporary, "no such table: %s", name)
	}
	for _, k := range keys {
		value, err := t.Lookup(ctx, table.Alias, k)
		if errors.Is(err, table.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, false, w.failf(listTemp, "table %s: %w", name, err)
		}
		targets, err := ParseTargets(value, w.delim)
		if err != nil {
			return nil, false, w.failf(listTemp, "table %s: entry %q: %w", name, k, err)
		}
		return targets, true, nil
	}
	return nil, false, nil
}

// username tries the alias table, then the userbase and ~/.forward.
func (w *walk) username(ctx context.Context, n *node) error {
	name := strings.ToLower(n.target.Text)
	base := table.CutTag(name, w.delim)
	aliases := n.action.Alias
	if aliases == "" {
		aliases = n.action.Virtual
	}
	if !n.sameUser && aliases != "" {
		keys := []string{name, base}
		if base == name {
			keys = keys[:1]
		}
		targets, found, err := w.alias(ctx, aliases, keys)
		if err != nil {
			return err
		}
		if found {
			return w.add(ctx, n, targets, false)
		}
	}
	u, err := w.userInfo(ctx, n.action, base)
	if err != nil {
		return err
	}
	if base != name {
		u.tag = name[len(base)+len(w.delim):]
	}
	n.user = u
	if n.sameUser && n.parent.forwarded || n.action.User != "" && n.action.User != u.name {
		return w.deliver(n)
	}
	return w.dotForward(ctx, n)
}

// userInfo asks the userbase of the action.
func (w *walk) userInfo(ctx context.Context, a *policy.Action, name string) (*userInfo, error) {
	t := w.x.Users
	if a.Userbase != "" {
		t = w.x.Tables(a.Userbase)
	}
	if t == nil {
		return nil, w.failf(temporary, "no userbase %q", a.Userbase)
	}
	value, err := t.Lookup(ctx, table.UserInfo, name)
	if errors.Is(err, table.ErrNotFound) {
		return nil, w.failf(unknown, "no user %q", name)
	}
	if err != nil {
		return nil, w.failf(temporary, "userbase: %w", err)
	}
	u := &userInfo{name: name}
	if u.uid, u.gid, u.home, err = ParseUserInfo(value); err != nil {
		return nil, w.failf(temporary, "userbase: user %q: %w", name, err)
	}
	return u, nil
}

// ParseUserInfo reads the value of a userbase, uid:gid:home.
func ParseUserInfo(s string) (uid, gid int, home string, err error) {
	f := strings.SplitN(s, ":", 3)
	if len(f) != 3 || !strings.HasPrefix(f[2], "/") || len(f[2]) > 1023 || strings.ContainsRune(f[2], 0) {
		return 0, 0, "", fmt.Errorf("want uid:gid:/home, have %q", s)
	}
	u, err1 := strconv.ParseUint(f[0], 10, 32)
	g, err2 := strconv.ParseUint(f[1], 10, 32)
	if err := errors.Join(err1, err2); err != nil || u == 1<<32-1 || g == 1<<32-1 {
		return 0, 0, "", fmt.Errorf("want uid:gid:/home, have %q", s)
	}
	return int(u), int(g), f[2], nil
}

// dotForward reads the user's ~/.forward, or delivers when there is none.
func (w *walk) dotForward(ctx context.Context, n *node) error {
	if w.x.Forward == nil {
		return w.deliver(n)
	}
	u := n.user
	data, found, err := w.x.Forward(ctx, ForwardRequest{User: u.name, UID: u.uid, GID: u.gid, Home: u.home})
	if err != nil {
		if se, ok := errors.AsType[*smtp.Error](err); ok {
			return w.fail(failure{se.Code, se.Enhanced, listPerm.text}, err)
		}
		return w.failf(listTemp, "open .forward of %s: %w", u.name, err)
	}
	if !found {
		return w.deliver(n)
	}
	targets, err := ParseForward(data, w.delim)
	if err != nil {
		return w.failf(listTemp, ".forward of %s: %w", u.name, err)
	}
	if len(targets) == 0 {
		return w.deliver(n)
	}
	n.forwarded = true
	return w.add(ctx, n, targets, true)
}

// exec emits a delivery to a file or command.
func (w *walk) exec(n *node) error {
	if n.action.Method == policy.ForwardOnly {
		return w.failf(listTemp, "%s under forward-only", n.target)
	}
	if u := n.parent.user; u != nil && u.uid == 0 {
		return w.failf(listTemp, "%s in the .forward of %s, who is root", n.target, u.name)
	}
	w.emit(n, envelope.MDA)
	return nil
}

// deliver emits a delivery to the user of the node.
func (w *walk) deliver(n *node) error {
	switch n.action.Method {
	case policy.ForwardOnly:
		return w.failf(listTemp, "%s forwards to no address, under forward-only", n.user.name)
	case policy.ExpandOnly:
		return w.failf(listPerm, "%s has neither alias nor .forward, under expand-only", n.user.name)
	}
	w.emit(n, envelope.MDA)
	return nil
}

// emit appends the envelope of a node.
func (w *walk) emit(n *node, typ envelope.Type) {
	e := &envelope.Envelope{
		Type:   typ,
		Action: n.action.Name,
		TTL:    n.action.TTL,
		Sender: w.facts.Sender,
		Rcpt:   w.facts.Rcpt,
		Dest:   n.addr.target.Addr,
	}
	if n.addr.depth > 0 {
		e.Flags |= envelope.Internal
	}
	switch n.target.Kind {
	case ToUser:
		e.User, e.Subaddress = n.user.name, n.user.tag
	case ToFile, ToCommand:
		e.Exec = n.target.String()
		if n.parent.user != nil {
			e.User = n.parent.user.name
		}
	}
	w.out = append(w.out, e)
}
