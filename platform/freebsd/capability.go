package freebsd

import "github.com/opensmtpd/opensmtpd/platform"

// capable tells whether a role can do its work in capability mode (capsicum(4)),
// where nothing can be named any more, no file and no address: it lives on the
// descriptors it has and is handed. Otherwise why says what it needs.
func capable(p platform.Profile) (ok bool, why string) {
	switch {
	case p.Sandbox == platform.SandboxOff:
		return false, "switched off"
	case p.Exec:
		return false, "starts other programs"
	case p.Inet || p.DNS:
		return false, "opens connections"
	case p.Unix:
		return false, "opens local sockets"
	case len(p.Read) > 0 || len(p.Write) > 0 || p.Users:
		return false, "opens files by name"
	}
	return true, ""
}
