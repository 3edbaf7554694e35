package lookup

import (
	"context"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/ruleset"
)

// matchFilter decides a condition of a built-in filter.
func (l *Lookup) matchFilter(ctx context.Context, req proto.MatchFilterRequest) (proto.BoolReply, error) {
	g, done := l.use(req.Generation)
	defer done()
	yes, err := ruleset.Holds(ctx, &req.Condition, g.expander.Tables, &req.Facts)
	return proto.BoolReply{Yes: yes}, err
}

// resolveFilter asks the DNS for a filter.
func (l *Lookup) resolveFilter(ctx context.Context, req proto.ResolveFilterRequest) (proto.ResolveFilterReply, error) {
	values, found, err := l.Resolver.Values(ctx, req.Type, req.Name)
	return proto.ResolveFilterReply{Found: found, Values: values}, err
}
