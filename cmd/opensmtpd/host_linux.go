package main

import (
	"syscall"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/linux"
)

// systemHost returns this machine's Host; fields of override replace its places.
func systemHost(override platform.Paths) (platform.Host, error) {
	return linux.New(linux.Config{Paths: override})
}

// replaceFD makes descriptor to mean what from means.
func replaceFD(from, to int) error { return syscall.Dup3(from, to, 0) }
