package expand

import "strings"

// nodeKey identifies a node when duplicates are dropped. An address counts by
// itself, all else together with the address it came from.
type nodeKey struct {
	kind TargetKind
	self uint8 // 1: a user below himself; 2: the same, below his .forward
	text string
	addr *node
}

// keyOf returns the key of a node. A user may come back to himself to keep a
// copy: once out of an alias and once out of his .forward.
func keyOf(n *node) nodeKey {
	k := nodeKey{kind: n.target.Kind, text: n.target.Text, addr: n.addr}
	switch k.kind {
	case ToAddress:
		k.addr = nil
		k.text = n.target.Addr.Local + "@" + strings.ToLower(strings.TrimSuffix(n.target.Addr.Domain, "."))
	case ToUser:
		k.text = strings.ToLower(k.text)
		if n.sameUser {
			k.self = 1
			if n.parent.forwarded {
				k.self = 2
			}
		}
	case ToError:
		k.text = n.target.Error.Reply()
	}
	return k
}

// sameAddress tells whether t is the address of node n.
func sameAddress(t Target, n *node) bool {
	return t.Kind == ToAddress && n != nil && strings.EqualFold(t.Addr.Local, n.target.Addr.Local) &&
		strings.EqualFold(t.Addr.Domain, strings.TrimSuffix(n.target.Addr.Domain, "."))
}

// seen is a set of node keys: a short list, which is what most recipients need,
// then a map.
type seen struct {
	few  []nodeKey
	many map[nodeKey]struct{}
}

// add inserts k and tells whether it was there.
func (s *seen) add(k nodeKey) bool {
	if s.many != nil {
		if _, ok := s.many[k]; ok {
			return true
		}
		s.many[k] = struct{}{}
		return false
	}
	for i := range s.few {
		if s.few[i] == k {
			return true
		}
	}
	s.few = append(s.few, k)
	if len(s.few) > 16 {
		s.many = make(map[nodeKey]struct{}, 2*len(s.few))
		for _, k := range s.few {
			s.many[k] = struct{}{}
		}
		s.few = nil
	}
	return false
}
