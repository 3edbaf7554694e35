package password

import (
	"fmt"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
)

// bcryptMax is the length up to which bcrypt looks at all of a password, in bytes.
// It takes 72 bytes, of which the last is the NUL behind the password: of one that
// fills them all it cannot tell that it ends there.
const bcryptMax = 71

// bcryptCost is the binary logarithm of the work: about a twentieth of a second, once
// for each login of a mail program.
const bcryptCost = 10

// Hash returns a crypt(5) string of password for a password table: bcrypt ($2b$),
// which every system's library knows; of more than 71 bytes, where bcrypt would
// look at the beginning only, SHA-512 ($6$).
func Hash(password string) (string, error) {
	if password == "" || len(password) > MaxLength || strings.IndexByte(password, 0) >= 0 {
		return "", fmt.Errorf("a password has 1 to %d bytes, none of them NUL", MaxLength)
	}
	var h algorithm.Hash
	var err error
	if len(password) <= bcryptMax {
		h, err = bcrypt.New(bcrypt.WithCost(bcryptCost))
	} else {
		h, err = shacrypt.NewSHA512()
	}
	if err != nil {
		return "", err
	}
	digest, err := h.Hash(password)
	if err != nil {
		return "", err
	}
	return digest.Encode(), nil
}
