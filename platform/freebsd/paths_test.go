package freebsd

import (
	"path/filepath"
	"testing"
)

func TestPlacesAreAbsoluteAndGapsAreTold(t *testing.T) {
	t.Parallel()
	p := paths()
	for _, path := range []string{
		p.Config, p.Spool, p.Run, p.Empty, p.Libexec, p.Mail, p.Aliases, p.MailName, p.Shell,
	} {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			t.Errorf("path %q is not absolute and clean", path)
		}
	}
}
