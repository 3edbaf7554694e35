package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// handleRecords serves the records that lookup keeps here.
func (q *Queue) handleRecords(mux *imsg.Mux) {
	proto.PutRecord.Handle(mux, proc.Handler(func(ctx context.Context, req proto.RecordRequest) (proto.Empty, error) {
		k, err := q.records(req.Kind)
		if err != nil {
			return proto.Empty{}, err
		}
		return proto.Empty{}, k.Put(ctx, req.Name, req.Data)
	}))
	proto.GetRecord.Handle(mux, proc.Handler(func(ctx context.Context, req proto.RecordRequest) (proto.RecordReply, error) {
		k, err := q.records(req.Kind)
		if err != nil {
			return proto.RecordReply{}, err
		}
		b, err := k.Get(ctx, req.Name)
		if errors.Is(err, keep.ErrNotFound) {
			return proto.RecordReply{}, nil
		}
		return proto.RecordReply{Found: err == nil, Data: b}, err
	}))
	proto.DropRecord.Handle(mux, proc.Handler(func(ctx context.Context, req proto.RecordRequest) (proto.Empty, error) {
		k, err := q.records(req.Kind)
		if err != nil {
			return proto.Empty{}, err
		}
		return proto.Empty{}, k.Delete(ctx, req.Name)
	}))
	proto.ListRecords.Handle(mux, proc.Handler(func(ctx context.Context, req proto.RecordRequest) (proto.RecordNames, error) {
		k, err := q.records(req.Kind)
		if err != nil {
			return proto.RecordNames{}, err
		}
		names, err := k.Names(ctx)
		return proto.RecordNames{Names: names}, err
	}))
}

func (q *Queue) records(kind proto.RecordKind) (keep.Keeper, error) {
	k := q.kept[kind]
	if k == nil {
		return nil, fmt.Errorf("no records of kind %d", kind)
	}
	return k, nil
}
