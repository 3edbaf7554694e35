package lookup

import (
	"context"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// records are the records of a kind, kept by the queue.
type records struct {
	p    *proc.Process
	kind proto.RecordKind
}

// Records returns the records of a kind that outlive the process.
func Records(p *proc.Process, kind proto.RecordKind) keep.Keeper { return records{p, kind} }

// askRecords makes one of the calls.
func askRecords[Rep any](ctx context.Context, r records, m imsg.Method[proto.RecordRequest, Rep], name string, data []byte) (Rep, error) {
	return proc.Ask(ctx, r.p.Links, proto.Queue, m, proto.RecordRequest{Kind: r.kind, Name: name, Data: data})
}

// Get implements keep.Keeper.
func (r records) Get(ctx context.Context, name string) ([]byte, error) {
	reply, err := askRecords(ctx, r, proto.GetRecord, name, nil)
	if err == nil && !reply.Found {
		err = keep.ErrNotFound
	}
	return reply.Data, err
}

// Put implements keep.Keeper.
func (r records) Put(ctx context.Context, name string, data []byte) error {
	_, err := askRecords(ctx, r, proto.PutRecord, name, data)
	return err
}

// Delete implements keep.Keeper.
func (r records) Delete(ctx context.Context, name string) error {
	_, err := askRecords(ctx, r, proto.DropRecord, name, nil)
	return err
}

// Names implements keep.Keeper.
func (r records) Names(ctx context.Context) ([]string, error) {
	reply, err := askRecords(ctx, r, proto.ListRecords, "", nil)
	return reply.Names, err
}
