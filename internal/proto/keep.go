package proto

import "github.com/opensmtpd/opensmtpd/internal/imsg"

// Records that outlive the processes: lookup learns and must not write files, the
// queue owns the spool and keeps them there, by kind and name, within bounds (see
// package keep). Served by the queue, to lookup alone.
var (
	// PutRecord keeps a record. Its reply comes when that is durable.
	PutRecord = imsg.Method[RecordRequest, Empty]{ID: 0x0220, Name: "queue.put-record", MaxSize: MaxRecord + 4096}
	// GetRecord returns a record.
	GetRecord = imsg.Method[RecordRequest, RecordReply]{ID: 0x0221, Name: "queue.get-record", MaxSize: MaxRecord + 4096, MaxRequest: 4096}
	// DropRecord drops a record, which may not be there.
	DropRecord = imsg.Method[RecordRequest, Empty]{ID: 0x0222, Name: "queue.drop-record"}
	// ListRecords returns the names of all records of a kind.
	ListRecords = imsg.Method[RecordRequest, RecordNames]{ID: 0x0223, Name: "queue.list-records", MaxSize: MaxRecord, MaxRequest: 4096}
)

// MaxRecord is the size of the largest record, in bytes.
const MaxRecord = 8 << 20

// RecordKind is what records are about.
type RecordKind uint8

// The kinds.
const (
	KeptPolicies  RecordKind = iota + 1 // of MTA-STS, by domain
	KeptTLSCounts                       // for the reports of RFC 8460, by day
)

// RecordRequest names a record; Data is that of PutRecord.
type RecordRequest struct {
	Kind RecordKind
	Name string
	Data []byte
}

// RecordReply is a record, if there is one.
type RecordReply struct {
	Found bool
	Data  []byte
}

// RecordNames lists records.
type RecordNames struct{ Names []string }
