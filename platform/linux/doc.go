// Package linux is the MTA's Host on Linux, for glibc and musl userlands alike.
//
// Confine: no capability that a program could bring back, chroot, groups, gid, uid;
// the process is made undumpable, so that processes of the same uid cannot trace it.
// Unless the role starts other programs: no_new_privs, Landlock (landlock.go decides
// what it grants) and a filter of system calls (seccomp.go decides what it lets pass),
// on every thread. Guarantees lists what the kernel does not offer.
//
// User: /etc/passwd and /etc/group, then what nsswitch.conf names. Authenticate:
// /etc/shadow, or PAM by the program auth-pam where it is installed. Notify: the datagram protocol
// of sd_notify(3), spoken when NOTIFY_SOCKET names a socket.
//
// Files whose names end in _linux.go hold the system calls; the decisions are in
// the others, which every system compiles and tests.
package linux
