package main

import (
	"syscall"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/freebsd"
)

// systemHost returns this machine's Host; fields of override replace its places.
func systemHost(override platform.Paths) (platform.Host, error) {
	return freebsd.New(freebsd.Config{Paths: override})
}

// replaceFD makes descriptor to mean what from means.
func replaceFD(from, to int) error { return syscall.Dup2(from, to) }
