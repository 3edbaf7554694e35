// Package darwin is the MTA's Host on macOS.
//
// Confine: chroot, groups, gid, uid, and no tracing. The sandbox has no public
// interface that a program without C can call, and Guarantees says so.
//
// User: Open Directory. It offers no Authenticator: passwords are Open Directory's,
// and a listener's auth wants a table.
//
// It is compiled and checked for macOS with every change, and was not yet run there.
package darwin
