package main

import (
	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/freebsd"
)

// systemHost returns this machine's Host; fields of override replace its places.
func systemHost(override platform.Paths) (platform.Host, error) {
	return freebsd.New(freebsd.Config{Paths: override})
}
