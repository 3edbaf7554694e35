// Package archtest holds no code. Its test keeps the shape of the module: which
// package may import which, what a process must not even link, who owns each
// module of others, no init functions, and a comment on every package. Packages
// that are not there yet are not missed.
package archtest
