// Package freebsd is the MTA's Host on FreeBSD.
//
// Confine: chroot, groups, gid, uid; no tracing, no_new_privs where procctl(2) has it;
// and capability mode (capsicum(4)) for the roles that live on descriptors alone, which
// capability.go decides about.
//
// User: /etc/passwd and /etc/group, then what nsswitch.conf(5) names. Authenticate:
// /etc/master.passwd, or PAM by the program auth-pam where it is installed.
//
// It is compiled and checked for FreeBSD with every change, and was not yet run there.
package freebsd
