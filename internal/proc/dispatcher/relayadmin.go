package dispatcher

import (
	"context"
	"fmt"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/stats"
)

// listBytes is about how much a page of a listing holds.
const listBytes = 1 << 20

// administer adds what the operator asks about relaying.
func (r *relaying) administer(mux *imsg.Mux) {
	proto.RelayList.Handle(mux, proc.Handler(r.list))
	proto.RelayAdmin.Handle(mux, proc.Handler(r.change))
}

// list returns a page of one of the listings. Each page is of the moment it is asked
// for; what changes in between may be missed, or come twice.
func (r *relaying) list(_ context.Context, req proto.RelayListRequest) (proto.RelayListReply, error) {
	all, err := r.engine.List(req.What, req.JSON)
	if err != nil {
		return proto.RelayListReply{}, err
	}
	from := min(max(req.From, 0), len(all))
	size := 0
	for i, line := range all[from:] {
		if size += len(line); size > listBytes && i > 0 {
			return proto.RelayListReply{Lines: all[from : from+i], Next: from + i}, nil
		}
	}
	return proto.RelayListReply{Lines: all[from:]}, nil
}

// change does what the operator wants of the engine.
func (r *relaying) change(_ context.Context, req proto.RelayAdminRequest) (proto.Empty, error) {
	b := relay.Block{Source: req.Source, Domain: req.Domain}
	log := r.d.p.Log
	switch req.Verb {
	case "pause":
		if !r.engine.Pause(req.Source, req.Domain) {
			return proto.Empty{}, fmt.Errorf("%s is already paused", &b)
		}
		log.Infof("mta paused from %s", &b)
	case "resume":
		if !r.engine.Resume(req.Source, req.Domain) {
			return proto.Empty{}, fmt.Errorf("%s is not paused", &b)
		}
		log.Infof("mta resumed from %s", &b)
	case "resume-route":
		if !r.engine.EnableRoute(req.Route) {
			if !slices.ContainsFunc(r.engine.Routes(), func(l relay.RouteInfo) bool { return l.ID == req.Route }) {
				return proto.Empty{}, fmt.Errorf("there is no route %d", req.Route)
			}
			return proto.Empty{}, fmt.Errorf("route %d is not disabled", req.Route)
		}
	default:
		return proto.Empty{}, fmt.Errorf("no such request: %q", req.Verb)
	}
	return proto.Empty{}, nil
}

// count sets the gauges of relaying.
func (r *relaying) count(s *stats.Set) {
	c := r.engine.Counts()
	for key, n := range map[stats.Key]int{
		stats.MTAConnector: c.Connectors, stats.MTADomain: c.Domains, stats.MTAEnvelope: c.Pending + c.Running, stats.MTAHost: c.Hosts,
		stats.MTARelay: c.Relays, stats.MTARoute: c.Routes, stats.MTASession: c.Sessions, stats.MTASource: c.Sources,
		stats.MTATask: c.Messages, stats.MTATaskRunning: c.Transactions,
	} {
		if n != 0 || s.Get(key) != 0 {
			s.Set(key, int64(n))
		}
	}
}
