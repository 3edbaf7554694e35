// Package linux is the MTA's Host on Linux, for glibc and musl userlands alike.
//
// Confine: chroot, groups, gid, uid, and unless the role starts other programs,
// no_new_privs on every thread; the process is made undumpable, so that processes
// of the same uid cannot trace it. Guarantees lists what else the kernel could do
// and this package does not ask of it.
//
// User: /etc/passwd and /etc/group, then what nsswitch.conf names. Authenticate:
// /etc/shadow; accounts kept elsewhere want a table. Notify: the datagram protocol
// of sd_notify(3), spoken when NOTIFY_SOCKET names a socket.
//
// Files whose names end in _linux.go hold the system calls; the decisions are in
// the others, which every system compiles and tests.
package linux
