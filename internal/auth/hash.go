package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/md5crypt"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/sha1crypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
)

// errHash is the cause when a table holds what is no password hash.
var errHash = errors.New("not a password hash of a known kind")

// maxHash bounds a stored hash, in bytes.
const maxHash = 512

// hasher verifies passwords against hashes as crypt(3) writes them.
type hasher struct{ decoder *crypt.Decoder }

// newHasher knows $1$, $2a$ $2b$ $2y$, $5$, $6$, $sha1$ and $y$.
func newHasher() (*hasher, error) {
	d := crypt.NewDecoder()
	err := errors.Join(
		md5crypt.RegisterDecoderCommon(d),
		bcrypt.RegisterDecoderStandard(d),
		shacrypt.RegisterDecoder(d),
		sha1crypt.RegisterDecoder(d),
		scrypt.RegisterDecoderYescrypt(d),
	)
	return &hasher{d}, err
}

// match tells whether hash is one of password. A locked password ("*", "!", or a
// hash behind "!") matches nothing. An error means that the table is wrong, not the
// password.
func (h *hasher) match(hash, password string) (ok bool, err error) {
	hash = stripScheme(hash)
	if hash == "" || hash[0] == '*' || hash[0] == '!' {
		return false, nil
	}
	defer noPanic(&err)
	d, err := h.decode(hash)
	if err != nil {
		return false, err
	}
	return d.MatchAdvanced(password)
}

// decode reads a hash without its scheme.
func (h *hasher) decode(hash string) (d algorithm.Digest, err error) {
	if len(hash) > maxHash || hash == "" || hash[0] != '$' {
		return nil, errHash
	}
	defer noPanic(&err)
	if d, err = h.decoder.Decode(hash); err != nil {
		return nil, fmt.Errorf("%w: %w", errHash, err)
	}
	return d, nil
}

// noPanic makes an error of a panic, so that a damaged hash does not end the
// process.
func noPanic(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errHash, r)
	}
}

// stripScheme removes the {SCHEME} that other servers write before a crypt(3) hash.
func stripScheme(hash string) string {
	if !strings.HasPrefix(hash, "{") {
		return hash
	}
	scheme, rest, ok := strings.Cut(hash[1:], "}")
	if !ok {
		return hash
	}
	switch strings.ToUpper(scheme) {
	case "CRYPT", "BLF-CRYPT", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT":
		return rest
	}
	return hash
}
