package auth

import (
	"context"
	"errors"
	"strings"

	"github.com/opensmtpd/opensmtpd/platform/password"
)

// match tells whether hash is one of secret. A locked password ("*", "!", or a hash
// behind "!") matches nothing. An error means that the table is wrong, not the
// password.
func (c *Checker) match(ctx context.Context, hash, secret string) (bool, error) {
	err := c.verifier.Verify(ctx, stripScheme(hash), secret)
	if errors.Is(err, password.ErrMismatch) {
		return false, nil
	}
	return err == nil, err
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
