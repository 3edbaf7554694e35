package main

import (
	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/linux"
)

// systemHost returns this machine's Host; fields of override replace its places.
func systemHost(override platform.Paths) (platform.Host, error) {
	return linux.New(linux.Config{Paths: override})
}
