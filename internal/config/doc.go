// Package config reads smtpd.conf: lexer, grammar, checks and a printer that
// shows the configuration as understood. The result is plain data; the wiring
// cuts the slice of each process from it.
//
// Parse does no input or output of its own. Files, table programs, addresses
// and services of the host are asked for through the functions in Options, so
// that a configuration of another host can be checked as well as one's own.
//
//	cfg, errs := config.Parse(config.Options{
//		Path:       "/etc/mail/smtpd.conf",
//		ReadFile:   readBounded,
//		ServerName: "mx.example.org",
//	})
//
// All mistakes of a file are reported in one run, each with the line its token
// is on. After a mistake the reader goes on with the next statement; a name
// whose declaration was wrong is not reported again where it is used.
//
// # Grammar
//
// The language is that of smtpd.conf(5) of OpenSMTPD 7.8: what that version
// accepts means the same here, but for the cases listed in
// docs/smtpd.conf-differences.md. These forms are new. None of their words is
// reserved: they are known by where they stand, and stay usable as strings.
//
//	listen on TARGET proxy [from TABLE]          PROXY header, version 1 or 2
//	listen on TARGET proxy-v2 from TABLE         who may send the header
//	smtp limit max-session N                     sessions at a time
//	smtp limit max-session-per-source N          sessions at a time per address
//	smtp limit max-errors N                      failed commands per session
//	smtp limit max-auth-failures N               failed AUTH per session
//	smtp limit min-rate N                        bytes per second during DATA
//	smtp bare-newline reject | normalize         lines that end in LF alone
//	queue compression gzip | zstd                bare: gzip
//	queue encryption file PATH                   key in a file
//	queue reserve space | inodes PERCENT         kept free on the spool
//	queue retry mda | mta DELAY                  base of the quadratic retry
//	table NAME [TYPE:]PATH ttl DELAY             answers kept for a while
//	table NAME proc-exec COMMAND [ttl DELAY]     a table that a command answers
//	<localhost> <localnames> <anyhost> <getpwnam> <anydestination>
//	                                             built-in tables by their names
//
// # Bounds
//
// A token is at most 8096 bytes, includes nest at most 16 deep and never in a
// cycle, all files and macro expansions together are at most 16 MiB, and
// reading stops after 100 errors.
package config
