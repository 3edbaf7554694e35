package proto

import (
	"github.com/opensmtpd/opensmtpd/internal/imsg"
)

// Served by the parent.
var (
	// ReadForward returns the content of a user's .forward, after the checks of
	// forward(5): the file lies in Home and belongs to UID.
	ReadForward = imsg.Method[ForwardRequest, ForwardReply]{ID: 0x0401, Name: "parent.read-forward"}
	// SystemAuth checks a system user's password.
	SystemAuth = imsg.Method[SystemAuthRequest, Empty]{ID: 0x0402, Name: "parent.system-auth"}
	// OpenTable returns a descriptor of the file of a declared table.
	OpenTable = imsg.Method[OpenTableRequest, Empty]{ID: 0x0403, Name: "parent.open-table"}
	// SystemUser looks a user of the system up in sources that take a program to ask.
	SystemUser = imsg.Method[SystemUserRequest, SystemUserReply]{ID: 0x0409, Name: "parent.system-user"}
	// StartTable starts the program of a declared table and returns the socket to it.
	StartTable = imsg.Method[OpenTableRequest, TableProgram]{ID: 0x0410, Name: "parent.start-table"}
	// EndTable makes sure that a program ends whose socket lookup has closed.
	EndTable = imsg.Method[TableProgram, Empty]{ID: 0x0411, Name: "parent.end-table"}
	// StartWorker starts a delivery worker as a user and returns the socket to it.
	// The parent takes the method from its own configuration, and whom the worker runs
	// as from the system or, for a userbase, from lookup. It refuses uid 0 for all but
	// the system mailbox.
	StartWorker = imsg.Method[WorkerRequest, Empty]{ID: 0x0404, Name: "parent.start-worker"}
	// Reload reads the configuration again. The reply lists its mistakes; when there
	// are any, nothing has changed.
	Reload = imsg.Method[Empty, ReloadReply]{ID: 0x0405, Name: "parent.reload", MaxSize: 1 << 20}
	// Stop ends the service.
	Stop = imsg.Method[Empty, Empty]{ID: 0x0406, Name: "parent.stop"}
	// Status lists the processes and their protections.
	Status = imsg.Method[Empty, StatusReply]{ID: 0x0407, Name: "parent.status"}
	// SetVerbose changes the level of logging of all roles.
	SetVerbose = imsg.Method[VerboseRequest, Empty]{ID: 0x0408, Name: "parent.set-verbose"}
)

// ForwardRequest names a user as the userbase has it.
type ForwardRequest struct {
	UID  int
	Home string
}

// ForwardReply is the file; Found is false when there is none.
type ForwardReply struct {
	Found   bool
	Content []byte
}

// SystemAuthRequest holds a secret: never logged.
type SystemAuthRequest struct{ User, Password string }

// SystemUserRequest names a user.
type SystemUserRequest struct{ Name string }

// SystemUserReply is the user; Found is false when no source knows the name.
type SystemUserReply struct {
	Found              bool
	Name               string
	UID, GID           int
	Groups             []int
	Home, Shell, Gecos string
}

// OpenTableRequest names a table of a configuration.
type OpenTableRequest struct {
	Generation uint32
	Name       string
}

// TableProgram names a program that was started.
type TableProgram struct{ ID uint32 }

// WorkerRequest asks for a worker of a user for an action. Exec marks one that runs
// commands or appends to files out of aliases and .forward files.
type WorkerRequest struct {
	Action   string
	User     string // empty: the unprivileged user, for commands straight from aliases
	Userbase string // table that User is from; empty: the system's users
	Exec     bool

	// Shared asks for a worker for all users who have these ids; User has them.
	Shared   bool
	UID, GID uint32
}

// ReloadReply lists what was wrong, a line each.
type ReloadReply struct{ Errors []string }

// StatusReply lists the roles.
type StatusReply struct {
	ServerName string
	Generation uint32
	OneProcess bool
	Verbose    VerboseRequest // the level of logging in force
	Roles      []RoleStatus
}

// RoleStatus is one process.
type RoleStatus struct {
	Role       Role
	PID        int
	Restarts   int
	Guarantees string
	Missing    string
}
