package freebsd

import (
	"testing"

	"github.com/opensmtpd/opensmtpd/platform/platformtest"
)

func TestHost(t *testing.T) {
	t.Parallel()
	h, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	platformtest.Run(t, h)
}
