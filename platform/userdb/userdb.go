package userdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Bounds of a DB.
const (
	positiveTTL = 60 * time.Second
	negativeTTL = 5 * time.Second
	maxCached   = 4096             // answers kept
	maxHelpers  = 8                // helper programs at once; further lookups wait
	helperTime  = 10 * time.Second // of one helper program
	maxName     = 255              // bytes, LOGIN_NAME_MAX without its NUL on Linux
)

// Config says where users are found. A zero field means the usual place.
type Config struct {
	Passwd   string // /etc/passwd
	Group    string // /etc/group
	NSSwitch string // /etc/nsswitch.conf; "-": the system has none

	// Getent and ID are the programs that ask sources other than files, by
	// absolute path: getent(1) for the user, id(1) for the groups. Defaults
	// /usr/bin/getent and /usr/bin/id. They are run only when needed.
	Getent string
	ID     string

	// Systemd lists file patterns; while one of them exists, the source "systemd"
	// holds users of its own and is asked. Else it only invents transient service
	// users, who get no mail.
	Systemd []string
}

// DB looks users up. Its methods may be called concurrently.
type DB struct {
	cfg     Config
	helpers chan struct{} // one element for each helper program under way
	now     func() time.Time

	// ask stands for the helper programs and all sources; nil: they are run.
	ask func(ctx context.Context, name string) (platform.User, error)

	mu    sync.Mutex
	cache map[string]entry // guarded by mu
}

// Delegate makes ask answer for users whom, or whose groups, the files do not have
// all about. No helper program is run from then on. Call it before the first User.
func (db *DB) Delegate(ask func(ctx context.Context, name string) (platform.User, error)) {
	db.ask = ask
}

// entry is a cached answer; a nil user is a proven absence.
type entry struct {
	user    *platform.User
	expires time.Time
}

// New returns a DB for cfg.
func New(cfg Config) *DB {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&cfg.Passwd, "/etc/passwd")
	def(&cfg.Group, "/etc/group")
	def(&cfg.NSSwitch, "/etc/nsswitch.conf")
	def(&cfg.Getent, "/usr/bin/getent")
	def(&cfg.ID, "/usr/bin/id")
	return &DB{
		cfg:     cfg,
		helpers: make(chan struct{}, maxHelpers),
		now:     time.Now,
		cache:   make(map[string]entry),
	}
}

// User returns the user called name. It returns platform.ErrNoUser when all
// sources were asked and none knows the name; any other error is temporary. The
// caller may keep the result; it must not change Groups.
func (db *DB) User(ctx context.Context, name string) (platform.User, error) {
	if !ValidName(name) {
		return platform.User{}, platform.ErrNoUser
	}
	if u, ok := db.cached(name); ok {
		return answer(u)
	}
	u, err := db.lookup(ctx, name)
	switch {
	case err == nil:
		db.store(name, &u, positiveTTL)
		return u, nil
	case errors.Is(err, platform.ErrNoUser):
		db.store(name, nil, negativeTTL)
		return platform.User{}, platform.ErrNoUser
	default:
		return platform.User{}, fmt.Errorf("look up user %q: %w", name, err)
	}
}

// answer turns a cached answer into a result.
func answer(u *platform.User) (platform.User, error) {
	if u == nil {
		return platform.User{}, platform.ErrNoUser
	}
	return *u, nil
}

// ValidName tells whether name can be the name of a user at all. What begins with
// '-' would be read as an option by a helper program.
func ValidName(name string) bool {
	if name == "" || len(name) > maxName || name[0] == '-' || name[0] == '+' {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c <= ' ' || c == 0x7f || c == ':' || c == ',' || c == '/' {
			return false
		}
	}
	return true
}

// lookup asks the sources, files first.
func (db *DB) lookup(ctx context.Context, name string) (platform.User, error) {
	pw, plus, err := findPasswd(db.cfg.Passwd, name)
	if err != nil {
		return platform.User{}, err
	}
	if pw == nil {
		other, err := db.otherSources("passwd", plus)
		if err != nil {
			return platform.User{}, err
		}
		if !other {
			return platform.User{}, platform.ErrNoUser
		}
		if db.ask != nil {
			return db.ask(ctx, name)
		}
		if pw, err = db.getent(ctx, name); err != nil {
			return platform.User{}, err
		}
	}
	groups, plus, err := findGroups(db.cfg.Group, pw.Name, pw.GID)
	if err != nil {
		return platform.User{}, err
	}
	other, err := db.otherSources("group", plus)
	if err != nil {
		return platform.User{}, err
	}
	if other {
		if db.ask != nil {
			return db.ask(ctx, name)
		}
		if groups, err = db.idGroups(ctx, pw.Name, pw.GID); err != nil {
			return platform.User{}, err
		}
	}
	pw.Groups = groups
	return *pw, nil
}

// otherSources tells whether a database is to be had from elsewhere than its file.
// plus says that the file itself holds a "+" or "-" line, which brings YP in.
func (db *DB) otherSources(database string, plus bool) (bool, error) {
	if db.cfg.NSSwitch == "-" {
		return plus, nil
	}
	text, err := os.ReadFile(db.cfg.NSSwitch)
	if errors.Is(err, os.ErrNotExist) {
		return plus, nil
	}
	if err != nil {
		return false, err
	}
	sources, ok := sourcesOf(string(text), database)
	if !ok {
		return plus, nil
	}
	if database == "group" {
		more, _ := sourcesOf(string(text), "initgroups")
		sources = append(sources, more...)
	}
	for _, s := range sources {
		switch s {
		case "files":
		case "compat":
			if plus {
				return true, nil
			}
		case "systemd":
			if anyExists(db.cfg.Systemd) {
				return true, nil
			}
		default:
			return true, nil
		}
	}
	return false, nil
}

// anyExists tells whether a file matches one of the patterns.
func anyExists(patterns []string) bool {
	for _, p := range patterns {
		if m, err := filepath.Glob(p); err == nil && len(m) > 0 {
			return true
		}
	}
	return false
}

// cached returns the answer known for name, if it is fresh.
func (db *DB) cached(name string) (*platform.User, bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	e, ok := db.cache[name]
	if !ok || !db.now().Before(e.expires) {
		return nil, false
	}
	return e.user, true
}

// store keeps an answer. When the cache is full it drops what has expired, and if
// that is nothing, an arbitrary half.
func (db *DB) store(name string, u *platform.User, ttl time.Duration) {
	db.mu.Lock()
	defer db.mu.Unlock()
	now := db.now()
	if len(db.cache) >= maxCached {
		for k, e := range db.cache {
			if !now.Before(e.expires) {
				delete(db.cache, k)
			}
		}
		for k := range db.cache {
			if len(db.cache) <= maxCached/2 {
				break
			}
			delete(db.cache, k)
		}
	}
	db.cache[strings.Clone(name)] = entry{u, now.Add(ttl)}
}
