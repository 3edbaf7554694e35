// Package darwin is the MTA's Host on macOS.
//
// Confine: chroot, groups, gid, uid, and no tracing. The sandbox has no public
// interface that a program without C can call, and Guarantees says so.
//
// User: Open Directory. Authenticate: PAM, by the program auth-pam, which has to be
// installed; else a listener's auth wants a table. Passed sockets of launchd are not
// taken: they are to be had by a call of its C library only.
//
// It is compiled and checked for macOS with every change, and was not yet run there.
package darwin
