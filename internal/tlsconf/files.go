package tlsconf

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Bounds of files, in bytes, and of certificates in a chain.
const (
	maxKeyFile   = 64 << 10
	maxChainFile = 1 << 20
	maxCAFile    = 16 << 20
	maxChain     = 16
)

// ErrEncryptedKey says that a private key is protected by a passphrase, which
// nobody is there to type when the server starts.
var ErrEncryptedKey = errors.New("private key is encrypted: store it without passphrase, readable by root only (openssl pkey -in OLD -out NEW)")

// ReadChain returns the certificates in the file path, after checking that they
// are some and that nobody but root or the running user can replace them: owned by
// either, mode at most 0755.
func ReadChain(path string) ([]byte, error) {
	text, err := read(path, maxChainFile, 0o755)
	if err != nil {
		return nil, err
	}
	if _, err := parseChain(text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// ReadCA is ReadChain for a bundle of authorities.
func ReadCA(path string) ([]byte, error) {
	text, err := read(path, maxCAFile, 0o755)
	if err != nil {
		return nil, err
	}
	if _, err := pool(text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// ReadKey returns the private key in the file path, after checking that nobody but
// root or the running user and one group can read it: mode at most 0740.
func ReadKey(path string) (crypto.Signer, error) {
	text, err := read(path, maxKeyFile, 0o740)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// read returns the content of a regular file of at most limit bytes that is owned
// by root or the running user and has no mode bit beyond most.
func read(path string, limit int64, most fs.FileMode) ([]byte, error) {
	// Not to wait for a writer, should it be a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s: not owned by uid 0", path)
	case fi.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid)&^most != 0:
		return nil, fmt.Errorf("%s: insecure permissions %04o: must be at most %v (chmod %o)",
			path, fi.Mode().Perm(), most.String()[1:], fi.Mode().Perm()&most)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return text, nil
}

// parseChain returns the certificates of a PEM text.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(chain)+1, err)
		}
		if chain = append(chain, x); len(chain) > maxChain {
			return nil, fmt.Errorf("more than %d certificates", maxChain)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return chain, nil
}

// ParseKey returns the first private key of a PEM text, in the forms of PKCS #8
// (RFC 5958), PKCS #1 (RFC 8017) or SEC 1 (RFC 5915). It is ErrEncryptedKey that
// one is protected by a passphrase.
func ParseKey(text []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("no private key in PEM form")
		}
		var key any
		var err error
		switch block.Type {
		case "ENCRYPTED PRIVATE KEY":
			return nil, ErrEncryptedKey
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, ErrEncryptedKey
			}
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, ErrEncryptedKey
			}
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue // parameters, certificates
		}
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("private key of kind %T cannot sign", key)
		}
		return signer, nil
	}
}
