// Package freebsd is the MTA's Host on FreeBSD.
//
// Confine: chroot, groups, gid, uid. Capability mode (capsicum(4)) is not entered;
// Guarantees says so.
//
// User: /etc/passwd and /etc/group, then what nsswitch.conf(5) names. Authenticate:
// /etc/master.passwd.
//
// It is compiled and checked for FreeBSD with every change, and was not yet run there.
package freebsd
