package dns

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// AnyName asks for names of visible characters and spaces, where the methods of a
// Resolver ask for names of hosts. SPF makes such names of senders' addresses (RFC 7208
// section 7). What names an answer has are those of hosts here, too.
type AnyName struct{ Resolver *Resolver }

// Addrs is Resolver.Addrs.
func (a AnyName) Addrs(ctx context.Context, name string) (*Answer, error) {
	return a.Resolver.addrs(ctx, name, a.lookup)
}

// MX is Resolver.MX.
func (a AnyName) MX(ctx context.Context, name string) (*Answer, error) {
	return a.lookup(ctx, name, dns.TypeMX)
}

// TXT is Resolver.TXT.
func (a AnyName) TXT(ctx context.Context, name string) (*Answer, error) {
	return a.lookup(ctx, name, dns.TypeTXT)
}

func (a AnyName) lookup(ctx context.Context, name string, qtype uint16) (*Answer, error) {
	form, ok := written(name)
	if !ok {
		return nil, fmt.Errorf("%w: %.80q", ErrBadName, name)
	}
	return a.Resolver.follow(ctx, form, qtype)
}

// written returns a name as the library writes it, in lower case, with a backslash
// before what is special in master files, and without its final dot. ok is false when
// it cannot be asked for: labels have 1 to 63 characters, and names 253.
func written(name string) (_ string, ok bool) {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
	}
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c < ' ' || c > '~':
			return "", false
		case strings.IndexByte(` '@;()"\`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return strings.ToLower(b.String()), true
}
