// Package netbsd is the MTA's Host on NetBSD.
//
// Confine: chroot, groups, gid, uid; the system offers a process no further way to
// give up rights, and Guarantees says so.
//
// User: /etc/passwd and /etc/group, then what nsswitch.conf(5) names. Authenticate:
// /etc/master.passwd.
//
// It is compiled and checked for NetBSD with every change, and was not yet run there.
package netbsd
