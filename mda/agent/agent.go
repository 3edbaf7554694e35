// Package agent turns what an action line of smtpd.conf says about local delivery
// into an mda.Agent: it checks for loops, writes the delivery headers, expands
// the format specifiers, and hands over to the mailbox, the LMTP server or the
// command. It runs in a process that has become the recipient already.
package agent

import "time"

// Method is how an action delivers.
type Method string

// The methods of action lines, and of targets in aliases and .forward files.
const (
	Mbox    Method = "mbox"    // the system mailbox of the user
	Maildir Method = "maildir" // a Maildir
	LMTP    Method = "lmtp"    // an LMTP server
	Command Method = "command" // a shell command
	File    Method = "file"    // append to a file in mbox format
)

// Spec is everything an agent needs to know, as plain data that can be sent to
// the process that delivers. Command, Wrapper, Path and Dest may hold format
// specifiers, which are expanded for each delivery.
type Spec struct {
	Method  Method
	Path    string // maildir: directory, empty for ~/Maildir; file: the file
	Junk    bool   // maildir: mail marked as spam goes to the Junk folder
	Dest    string // lmtp: absolute path of a socket, or host[:port]
	RcptTo  bool   // lmtp: give the recipient address, not the user name
	Command string // command: line for the shell
	Wrapper string // line for the shell, with %{mda} for the command it wraps; empty: none

	HostName  string        // of this host: in names of Maildir files, and LHLO
	MailDir   string        // directory of the system mailboxes, /var/mail
	Libexec   string        // directory of mail.maildir and its siblings, for wrappers
	Shell     string        // empty: /bin/sh
	DefPath   string        // PATH of commands; empty: /usr/bin:/bin:/usr/sbin:/sbin
	Delimiter string        // between user and subaddress; empty: "+"
	Timeout   time.Duration // of one delivery; 0: 5 minutes
}
