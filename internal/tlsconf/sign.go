package tlsconf

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"time"
)

// signTimeout bounds the wait for the key process. A handshake waits no longer.
const signTimeout = 10 * time.Second

// maxSigned bounds what is signed, in bytes. Only Ed25519 signs more than a digest:
// the content of RFC 8446 section 4.4.3, or the parameters of RFC 8422.
const maxSigned = 1024

// SignRequest asks for one signature. It is data only, to be sent between
// processes.
type SignRequest struct {
	Key    string // name of the pki
	Hash   uint32 // crypto.Hash of Digest; 0: Digest is the message, for Ed25519
	PSS    bool   // RSASSA-PSS with salts as long as the digest, else PKCS #1 v1.5
	Digest []byte
}

// Signer signs with a key that another process holds. It is a crypto.Signer for
// tls.Certificate and may be used concurrently.
type Signer struct {
	name   string
	public crypto.PublicKey
	sign   func(context.Context, SignRequest) ([]byte, error)
}

var _ crypto.Signer = (*Signer)(nil)

// NewSigner returns a Signer for the key of the pki name, whose certificate comes
// first in chain (PEM). sign carries a request to where the key is.
func NewSigner(name string, chain []byte, sign func(context.Context, SignRequest) ([]byte, error)) (*Signer, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, fmt.Errorf("pki %s: %w", name, err)
	}
	return &Signer{name, certs[0].PublicKey, sign}, nil
}

// Public returns the public key of the certificate.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign asks for a signature. The randomness it takes is that of the key process.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	req := SignRequest{Key: s.name, Hash: uint32(opts.HashFunc()), Digest: digest}
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		if pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != opts.HashFunc().Size() {
			return nil, errors.New("sign: salt of another length than the digest")
		}
		req.PSS = true
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	// The interface has no context.
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	return s.sign(ctx, req)
}

// check returns an error unless r is a request TLS 1.2 or 1.3 can give rise to.
func (r SignRequest) check() error {
	switch h := crypto.Hash(r.Hash); h {
	case 0:
		if len(r.Digest) == 0 || len(r.Digest) > maxSigned || r.PSS {
			return errors.New("sign: bad message")
		}
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
		if len(r.Digest) != h.Size() {
			return errors.New("sign: digest of the wrong size")
		}
	default:
		return fmt.Errorf("sign: hash %d is not used with TLS", r.Hash)
	}
	return nil
}

// KeyStore holds private keys and signs with them. Add all keys before the first
// Sign; Sign may then be called concurrently.
type KeyStore struct {
	keys map[string]crypto.Signer
}

// NewKeyStore returns an empty KeyStore.
func NewKeyStore() *KeyStore { return &KeyStore{keys: make(map[string]crypto.Signer)} }

// Add adds the key of the pki called name, in the place of any other.
func (s *KeyStore) Add(name string, key crypto.Signer) { s.keys[name] = key }

// Sign answers a request. It believes nothing of it: an unknown key, a digest that
// does not fit its hash, a scheme that does not fit the key is an error.
func (s *KeyStore) Sign(r SignRequest) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	key, ok := s.keys[r.Key]
	if !ok {
		return nil, fmt.Errorf("sign: no key called %.80q", r.Key)
	}
	hash := crypto.Hash(r.Hash)
	var opts crypto.SignerOpts = hash
	fits := false
	switch key.Public().(type) {
	case *rsa.PublicKey:
		fits = hash != 0
		if r.PSS {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
		}
	case *ecdsa.PublicKey:
		fits = hash != 0 && !r.PSS
	case ed25519.PublicKey:
		fits = hash == 0
	}
	if !fits {
		return nil, fmt.Errorf("sign: request does not fit the key %.80q", r.Key)
	}
	return key.Sign(rand.Reader, r.Digest, opts)
}
