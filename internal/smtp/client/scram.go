package client

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// Bounds of the iteration count of SCRAM: fewer give the password away (RFC 7677
// section 4), more are an attack on this side's time.
const (
	minIterations = 4096
	maxIterations = 1 << 20
)

var (
	errIterations = errors.New("iteration count out of range")
	errServer     = errors.New("server does not know the password")
)

// scram is SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding. Passwords
// are taken as they are: SASLprep changes no ASCII text.
type scram struct {
	c         *Credentials
	nonce     string // ours
	bare      string // client-first-message-bare
	signature []byte // expected of the server
	verified  bool
}

func newScram(c *Credentials) *scram { return &scram{c: c, nonce: rand.Text()} }

func (m *scram) start() ([]byte, bool) {
	user := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(m.c.User)
	m.bare = "n=" + user + ",r=" + m.nonce
	return []byte("n,," + m.bare), true
}

func (m *scram) next(challenge []byte) ([]byte, error) {
	if m.signature == nil {
		return m.prove(string(challenge))
	}
	v, ok := strings.CutPrefix(string(challenge), "v=")
	got, err := base64.StdEncoding.DecodeString(v)
	if !ok || err != nil || subtle.ConstantTimeCompare(got, m.signature) != 1 {
		return nil, errServer
	}
	m.verified = true
	return nil, nil
}

// prove answers the server-first-message: nonce, salt, iteration count.
func (m *scram) prove(first string) ([]byte, error) {
	parts := strings.Split(first, ",")
	if len(parts) < 3 {
		return nil, errChallenge
	}
	nonce, ok1 := strings.CutPrefix(parts[0], "r=")
	salt64, ok2 := strings.CutPrefix(parts[1], "s=")
	count, ok3 := strings.CutPrefix(parts[2], "i=")
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if !ok1 || !ok2 || !ok3 || err != nil || len(salt) == 0 || len(nonce) <= len(m.nonce) || !strings.HasPrefix(nonce, m.nonce) {
		return nil, errChallenge
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < minIterations || n > maxIterations {
		return nil, errIterations
	}
	salted, err := pbkdf2.Key(sha256.New, m.c.Password, salt, n, sha256.Size)
	if err != nil {
		return nil, err
	}
	final := "c=biws,r=" + nonce
	text := m.bare + "," + first + "," + final
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	proof := make([]byte, len(clientKey))
	subtle.XORBytes(proof, clientKey, mac(stored[:], text))
	m.signature = mac(mac(salted, "Server Key"), text)
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

func (m *scram) end() error {
	if !m.verified {
		return errServer
	}
	return nil
}

// mac returns HMAC-SHA-256.
func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text)) // cannot fail
	return h.Sum(nil)
}
