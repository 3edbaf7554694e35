// Package table is the contract of a lookup table: named data that the rules of
// smtpd.conf consult. It imports the standard library only, so that table
// programs of other people can be built on it.
package table

import (
	"context"
	"errors"
)

// Service is a kind of question a table answers. The words are those of the text
// table protocol, version 0.1.
type Service string

// The services. The comment says what the key is and what the value.
const (
	Alias       Service = "alias"       // user, user+tag, or address → comma list of expansion targets
	Domain      Service = "domain"      // domain → itself (membership, globs)
	Credentials Service = "credentials" // user or label → "user:password"
	NetAddr     Service = "netaddr"     // client address → itself (membership, networks)
	UserInfo    Service = "userinfo"    // user → "uid:gid:home"
	Source      Service = "source"      // fetched: local addresses
	MailAddr    Service = "mailaddr"    // address → itself (membership, patterns)
	AddrName    Service = "addrname"    // address text → host name
	MailAddrMap Service = "mailaddrmap" // user → comma list of address patterns
	RelayHost   Service = "relayhost"   // fetched, or domain → relay URL
	String      Service = "string"      // string → itself (membership)
	Regex       Service = "regex"       // string → itself (membership by pattern)
	Auth        Service = "auth"        // "user:password" → itself (check)
)

// ErrNotFound says that the key is not in the table: a proven answer. Any other
// error of a table is temporary.
var ErrNotFound = errors.New("not found")

// ErrUnsupported says that a table does not offer the service asked for.
var ErrUnsupported = errors.New("service not offered by this table")

// Table answers questions. Its methods may be called at the same time from many
// goroutines and end when ctx does.
type Table interface {
	// Lookup returns the value of key for the service, or ErrNotFound. For services
	// that only ask for membership the value is the entry that matched, or the key
	// where that is not known.
	//
	// The key is passed as the session has it. A table compares it without regard to
	// case except for Credentials, Auth and Regex, where it is passed on unchanged.
	Lookup(ctx context.Context, s Service, key string) (string, error)

	// Fetch returns the next entry in file order, wrapping at the end, or ErrNotFound
	// when the table is empty. Used with Source and RelayHost.
	Fetch(ctx context.Context, s Service) (string, error)

	// Update reloads the content. On an error the old content stays in use.
	Update(ctx context.Context) error

	// Close frees what the table holds. No other call may follow.
	Close() error
}

// Lister is a Table that can tell all that Fetch would give.
type Lister interface {
	Table

	// List returns the entries that Fetch gives, once each and in file order, or
	// ErrNotFound when there are none. The result is the caller's. It is used with
	// RelayHost, where a table that is no Lister gives one host at a time.
	List(ctx context.Context, s Service) ([]string, error)
}
