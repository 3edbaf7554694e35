// Package password verifies passwords against the hashes that Unix systems keep
// in shadow(5), master.passwd(5) and password tables: crypt(5) strings of the
// forms $y$, $6$, $5$, $2a$, $2b$, $2y$, $sha1$, $md5 and $1$, and argon2,
// scrypt and pbkdf2. It is the only user of the hashing library.
//
// A hash comes from the administrator and is trusted to state a sane cost; a
// password comes from a stranger and is bounded before it is hashed.
package password

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/md5crypt"
	"github.com/go-crypt/crypt/algorithm/pbkdf2"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/sha1crypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
)

// MaxLength bounds a password, in bytes. crypt(3) of libxcrypt takes no longer one.
const MaxLength = 511

// maxHash bounds a stored hash, in bytes.
const maxHash = 512

// Dummy is a well-formed hash that no password is meant to match. Verifying
// against it costs about what a real verification costs, so that the time an
// answer takes does not tell whether a user exists.
const Dummy = "$6$dG9vbGF0ZWZvcnRl$pyv.GAjQh92FU99lNslpFk0scsc0PE/HZ9Jwodp7gcbMw1NNfTSFJta0jLMbEW8YdP3mnwOj7LuJB1yfzLcl9."

// Errors of Verify.
var (
	// ErrMismatch says that the password is not the one of the hash, or too long
	// to be one, or that the hash is a mark no password matches.
	ErrMismatch = errors.New("password does not match")
	// ErrUnsupported says that the hash is of a form this package cannot verify.
	ErrUnsupported = errors.New("unsupported form of password hash")
)

// Verifier checks passwords, a bounded number at a time. Its methods may be
// called concurrently.
type Verifier struct {
	decoder *crypt.Decoder
	slots   chan struct{} // one element for each verification under way
}

// New returns a Verifier that runs at most parallel verifications at once;
// further ones wait. Zero means one for each processor. Some hashes take tens of
// megabytes and a tenth of a second each, on purpose.
func New(parallel int) (*Verifier, error) {
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	d := crypt.NewDecoder()
	err := errors.Join(
		argon2.RegisterDecoder(d), bcrypt.RegisterDecoder(d), md5crypt.RegisterDecoder(d),
		pbkdf2.RegisterDecoder(d), scrypt.RegisterDecoder(d), sha1crypt.RegisterDecoder(d),
		shacrypt.RegisterDecoder(d),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare password hashes: %w", err)
	}
	return &Verifier{decoder: d, slots: make(chan struct{}, parallel)}, nil
}

// Verify returns nil when password is the one hash was made from, ErrMismatch
// when it is not, ErrUnsupported when it cannot tell, or the error of ctx when
// that ends while Verify waits for its turn. A verification once begun is not
// interrupted. An empty password or hash never matches.
func (v *Verifier) Verify(ctx context.Context, hash, password string) (err error) {
	if Locked(hash) || password == "" || len(password) > MaxLength || strings.IndexByte(password, 0) >= 0 {
		return ErrMismatch
	}
	select {
	case v.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-v.slots }()

	if len(hash) > maxHash {
		return fmt.Errorf("%w: longer than %d bytes", ErrUnsupported, maxHash)
	}
	// The library panics on some damaged hashes; one bad line of a table must not end
	// the process.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrUnsupported, Form(hash), r)
		}
	}()
	digest, err := v.decoder.Decode(hash)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrUnsupported, Form(hash))
	}
	ok, err := digest.MatchAdvanced(password)
	if err != nil {
		return fmt.Errorf("verify password hash of form %s: %w", Form(hash), err)
	}
	if !ok {
		return ErrMismatch
	}
	return nil
}

// Locked tells whether hash is one of the marks that no password matches: empty,
// or beginning with '*' or '!', or the "x" that points elsewhere (shadow(5)).
func Locked(hash string) bool {
	return hash == "" || hash == "x" || hash[0] == '*' || hash[0] == '!'
}

// Form returns the part of hash that names its algorithm, such as "$6$", for
// messages. It never shows salt or digest.
func Form(hash string) string {
	if !strings.HasPrefix(hash, "$") {
		return "(traditional DES or plain text)"
	}
	id, _, ok := strings.Cut(hash[1:], "$")
	if !ok || len(id) > 16 {
		return "(unknown)"
	}
	return "$" + id + "$"
}
