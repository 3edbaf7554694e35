// Package userdb looks users up on systems that keep them as Unix always has: in
// passwd(5) and group(5), and, where nsswitch.conf(5) or a "+" line says so, in
// further sources such as LDAP, SSSD or YP, which getent(1) and id(1) ask on our
// behalf. A program without the C library can reach them in no other way.
//
// The promise is that absence is proven. A user is unknown only when every source
// that is configured says so; a source that cannot be asked is a temporary error,
// so that a directory server being restarted bounces no mail.
//
// Answers are cached for a short time, in a bounded number, and at most a few
// helper programs run at once. Names come from strangers: one that cannot be a
// user name is unknown without asking anybody.
package userdb
