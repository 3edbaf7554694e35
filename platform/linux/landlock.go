package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Rights of Landlock on files, linux/landlock.h.
const (
	fsExecute    = 1 << 0
	fsWriteFile  = 1 << 1
	fsReadFile   = 1 << 2
	fsReadDir    = 1 << 3
	fsRemoveDir  = 1 << 4
	fsRemoveFile = 1 << 5
	fsMakeDir    = 1 << 7
	fsMakeFile   = 1 << 8
	fsMakeLink   = 1 << 12 // symbolic
	fsRefer      = 1 << 13
	fsTruncate   = 1 << 14

	fsOfFiles = fsExecute | fsWriteFile | fsReadFile | fsTruncate // the others are of directories
	fsReading = fsReadFile | fsReadDir
	fsWriting = fsReading | fsWriteFile | fsRemoveDir | fsRemoveFile | fsMakeDir | fsMakeFile | fsMakeLink | fsRefer | fsTruncate
)

// Rights of Landlock on ports, and its scopes.
const (
	netBind          = 1 << 0
	netConnect       = 1 << 1
	scopeAbstractIPC = 1 << 0
)

// pathRule grants rights below a path, named as it is in the new root directory.
type pathRule struct {
	path   string
	rights uint64
}

// ruleset is what Landlock shall enforce: what is handled and not granted is refused.
type ruleset struct {
	handledFiles, handledPorts, scoped uint64
	paths                              []pathRule
	anyPort                            bool // binding to port 0, which leaves the port to the system, is granted
}

// covers says what r restricts, in a word. Rules about ports are newer than those about
// files. Where they are missing the filter of system calls still lets nobody listen,
// and nobody connect who need not.
func (r ruleset) covers() string {
	if r.handledPorts == 0 {
		return "files"
	}
	return "files+ports"
}

// hidden are directories at the top of the file system that no role reads for
// mail's sake: other processes, devices, the system's innards.
func hidden() []string { return []string{"boot", "dev", "lost+found", "proc", "root", "sys"} }

// readsAll tells whether a role reads the whole file system of the machine.
func readsAll(p platform.Profile) bool {
	return (p.Root == "" || p.Root == "/") && slices.Contains(p.Read, "/")
}

// useful tells whether a role can do its work under Landlock of the given version,
// otherwise why not. The first one (Linux 5.13 to 5.18) lets nobody move or link a
// file from one directory to another, which is how queue and Maildir store mail.
func useful(p platform.Profile, abi int) (ok bool, why string) {
	if abi < 2 && len(p.Write) > 0 {
		return false, fmt.Sprintf("of the kernel forbids moving files (abi %d)", abi)
	}
	return true, ""
}

// rules translates a profile for a kernel whose Landlock has the given version.
// top lists the entries of the root directory, for a role that reads all of it.
func rules(p platform.Profile, abi int, top []string) (ruleset, error) {
	r := ruleset{handledFiles: 1<<13 - 1}
	if abi >= 2 {
		r.handledFiles |= fsRefer
	}
	if abi >= 3 {
		r.handledFiles |= fsTruncate
	}
	if abi >= 4 {
		r.handledPorts = netBind
		if !p.Inet {
			r.handledPorts |= netConnect
		}
		r.anyPort = p.Inet
	}
	if abi >= 5 {
		r.handledFiles |= 1 << 15 // ioctl on devices
	}
	if abi >= 6 {
		r.scoped = scopeAbstractIPC
	}
	for _, list := range []struct {
		paths  []string
		rights uint64
	}{{p.Read, fsReading}, {p.Write, fsWriting}} {
		for _, path := range list.paths {
			inside, ok := p.Inside(path)
			if !ok {
				return r, fmt.Errorf("profile of %s: %s lies outside of the root directory %s", p.Role, path, p.Root)
			}
			rights := list.rights & r.handledFiles
			if inside != "/" || !readsAll(p) || rights&fsWriteFile != 0 {
				r.paths = append(r.paths, pathRule{inside, rights})
				continue
			}
			for _, name := range top {
				if !slices.Contains(hidden(), name) {
					r.paths = append(r.paths, pathRule{"/" + name, rights})
				}
			}
			r.paths = append(r.paths, pathRule{os.DevNull, rights})
		}
	}
	if len(p.Read) == 0 && p.Root == "" && (p.Users || p.DNS) {
		r.paths = append(r.paths, pathRule{"/etc", fsReading}, pathRule{"/run", fsReading}, pathRule{"/usr/lib", fsReading})
	}
	for i, rule := range r.paths {
		r.paths[i].path = filepath.Clean(rule.path)
	}
	return r, nil
}
