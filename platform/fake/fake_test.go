package fake

import (
	"testing"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/platformtest"
)

func TestHost(t *testing.T) {
	t.Parallel()
	platformtest.Run(t, New(t.TempDir(), platform.User{Name: "root", Home: "/root", Shell: "/bin/sh"}))
}
