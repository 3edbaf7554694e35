// Package deliver decides in which order local deliveries run, how many at a time,
// and how long a delivery worker lives. It starts no process and opens no file: the
// lookup of users and the workers are injected, and results are handed back.
//
// Attempts of one user wait in that user's line; the lines are served in turn, so
// that a user with a slow command or a full mailbox holds up nobody else. A worker
// is a process of one recipient for one action, or of all virtual users who have his
// ids. It is kept for the lease after its last delivery and then ended, or earlier when
// another recipient needs its place.
//
// Goroutines: one for each delivery or user lookup under way, at most
// Limits.MaxSession, and the one of Run. Attempts waiting: at most what the schedule
// lets fly, and Limits.HiWat a user. Workers: at most Limits.MaxWorkers.
package deliver

import (
	"context"
	"errors"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/mda"
)

// Limits of local delivery. Zero fields mean the default.
type Limits struct {
	MaxSession        int           // deliveries and user lookups at a time; default 50
	MaxSessionPerUser int           // of them for one user; default 7
	HiWat             int           // attempts a user may have here; what goes beyond is held; default 50
	LoWat             int           // attempts left at which held ones are released; default 30
	Release           int           // how many are released at a time; default 10
	MaxWorkers        int           // workers, idle ones included, but not those being closed; default and least MaxSession
	Lease             time.Duration // how long a worker without work and a looked-up user are kept; default 10 s
	Timeout           time.Duration // after which a worker that does not answer is given up; default 10 min
}

func (l Limits) withDefaults() Limits {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&l.MaxSession, 50)
	def(&l.MaxSessionPerUser, 7)
	def(&l.HiWat, 50)
	def(&l.LoWat, 30)
	def(&l.Release, 10)
	l.LoWat = min(l.LoWat, l.HiWat-1)
	l.MaxWorkers = max(l.MaxWorkers, l.MaxSession)
	if l.Lease <= 0 {
		l.Lease = 10 * time.Second
	}
	if l.Timeout <= 0 {
		l.Timeout = 10 * time.Minute
	}
	return l
}

// Attempt is one delivery to be made. The action's part is filled in by the caller.
type Attempt struct {
	Envelope *envelope.Envelope
	Userbase string // table that knows Envelope.User; empty: the system's users
	RunAs    string // user option of the action: a system user who delivers instead; may be empty
	Mbox     bool   // the system mailbox, without a wrapper: the one method allowed for root
	Shared   bool   // a worker may deliver for other users of the same uid and gid, too

	// Open returns the body. It is called when the turn has come, in a goroutine of
	// its own; the body is closed here.
	Open func(ctx context.Context) (queue.Body, error)
}

// User is whose rights a delivery has.
type User struct {
	Name string
	UID  uint32
	GID  uint32
	Home string
}

// ErrNoUser is wrapped by an error of Users that is a proven answer: there is no
// such user. All others are temporary.
var ErrNoUser = errors.New("no such user")

// Users looks up users. It is called from several goroutines and ends when ctx does.
type Users interface {
	// UserInfo returns a user of the userbase table, or of the system when userbase is
	// empty.
	UserInfo(ctx context.Context, user, userbase string) (User, error)
}

// Spec says which worker is wanted: whose rights, which action. Attempts with
// equal Specs may have the same worker, at the same time too.
type Spec struct {
	Action string
	As     User   // uid, gid and home of the process
	Login  string // name in the userbase, for USER and LOGNAME; As.Name when the envelope has none

	Exec      bool // for commands and files that users and aliases name; others never share a worker with these
	Shared    bool // for all users whose rights are As.UID and As.GID, As and Login being one of them
	Anonymous bool // no envelope of the worker's names a user: out of aliases
}

// key returns what is equal for all attempts that may have the same worker.
func (s Spec) key() Spec {
	if s.Shared {
		s.Login, s.As.Name, s.As.Home = "", "", ""
	}
	return s
}

// Workers starts delivery workers. It is called from several goroutines.
type Workers interface {
	// Start returns a worker that is ready. Its errors are temporary.
	Start(ctx context.Context, s Spec) (Worker, error)
}

// Worker is a live process that delivers for one Spec.
type Worker interface {
	// Deliver makes one delivery. It may be called at the same time from several
	// goroutines, up to Limits.MaxSessionPerUser for each user. An error means that the
	// worker died or broke the rules of the conversation: the outcome is not known and
	// the worker is not used again. It ends when ctx does.
	Deliver(ctx context.Context, j Job) (mda.Result, error)

	// Done is closed when the worker has ended.
	Done() <-chan struct{}

	// Close asks the worker to end and does not wait for that. It is called once, after
	// the last Deliver returned.
	Close() error
}

// Job is what a worker is told of one delivery.
type Job struct {
	Envelope *envelope.Envelope
	Body     queue.Body
	Home     string // of the user, for a worker that several share; otherwise the worker knows
}

// Desk is where deliveries report to: the queue process.
type Desk interface {
	// Done takes the result of an attempt. It is called once for each attempt that Add
	// took, from several goroutines and without a lock. Until it returns the attempt
	// counts as running, so it may wait for the disk. Attempts that end because Run
	// was told to end are not reported. cause is what Result.Text does not tell the
	// sender, for the log; nil when it tells all.
	Done(a *Attempt, r mda.Result, cause error)

	// Hold says that a user has too many attempts here already: a goes into the hold
	// queue of that name. Release asks for up to n of a hold queue back, all when
	// n < 0. Both are called in the order of what happened, under a lock: they must
	// neither wait nor call back.
	Hold(a *Attempt, queue string)
	Release(queue string, n int)
}

// Counts is a snapshot of what is going on.
type Counts struct {
	Users   int // with attempts here
	Pending int // attempts waiting
	Running int // attempts being delivered
	Workers int // live, idle ones included
}
