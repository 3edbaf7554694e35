// Package openbsd is the MTA's Host on OpenBSD.
//
// Confine: chroot, groups, gid, uid, then unveil(2) of the files a role named and
// pledge(2). What is promised and unveiled is decided in pledge.go, which every
// system compiles and tests; host_openbsd.go only makes the calls.
//
// User: /etc/passwd and /etc/group, and YP through getent(1) when these hold a "+"
// line; a confined process has the parent run that. Authenticate: BSD authentication,
// by the program of the user's style, /usr/libexec/auth/login_STYLE (login.conf(5)).
//
// It is compiled and checked for OpenBSD with every change, and was not yet run
// there.
package openbsd
