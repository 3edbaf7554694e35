package tlsconf

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// store writes text to a new file of the given mode.
func store(t *testing.T, text []byte, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// encode returns key in the named form.
func encode(t *testing.T, key crypto.Signer, form string) []byte {
	t.Helper()
	var der []byte
	var err error
	switch form {
	case "PRIVATE KEY":
		der, err = x509.MarshalPKCS8PrivateKey(key)
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: form, Bytes: der})
}

func TestKeysOfAllFormsAreRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ kind, form string }{
		{"rsa", "PRIVATE KEY"}, {"ecdsa", "PRIVATE KEY"}, {"ed25519", "PRIVATE KEY"},
		{"rsa", "RSA PRIVATE KEY"}, {"ecdsa", "EC PRIVATE KEY"},
	} {
		key := newKey(t, tt.kind)
		text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6}}), encode(t, key, tt.form)...)
		got, err := ReadKey(store(t, text, 0o600))
		if err != nil {
			t.Errorf("%s %s: %v", tt.kind, tt.form, err)
			continue
		}
		if !got.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s %s: another key came back", tt.kind, tt.form)
		}
	}
}

func TestFilesThatOthersCanReachAreRefused(t *testing.T) {
	t.Parallel()
	key := newKey(t, "ecdsa")
	secret, chain := encode(t, key, "PRIVATE KEY"), issue(t, key, "mx.example.org")
	for mode, ok := range map[fs.FileMode]bool{
		0o400: true, 0o600: true, 0o640: true, 0o740: true, 0o644: false, 0o660: false, 0o604: false, 0o777: false,
	} {
		if _, err := ReadKey(store(t, secret, mode)); (err == nil) != ok {
			t.Errorf("key of mode %04o: %v; accepted should be %v", mode, err, ok)
		}
	}
	for mode, ok := range map[fs.FileMode]bool{0o444: true, 0o644: true, 0o755: true, 0o664: false, 0o646: false} {
		if _, err := ReadChain(store(t, chain, mode)); (err == nil) != ok {
			t.Errorf("certificate of mode %04o: %v; accepted should be %v", mode, err, ok)
		}
		if _, err := ReadCA(store(t, chain, mode)); (err == nil) != ok {
			t.Errorf("ca of mode %04o: %v; accepted should be %v", mode, err, ok)
		}
	}
	_, err := ReadKey(store(t, secret, 0o644))
	if err == nil || !strings.Contains(err.Error(), "insecure permissions 0644: must be at most rwxr-----") {
		t.Errorf("error %v does not tell what is wrong", err)
	}
	if os.Geteuid() == 0 {
		path := store(t, secret, 0o600)
		if err := os.Chown(path, 65533, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "not owned by uid 0") {
			t.Errorf("key of another user: %v", err)
		}
	}
}

func TestFilesOfNoUseAreRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string][]byte{
		"empty": nil, "text": []byte("hello\n"), "too long": bytes.Repeat([]byte("x\n"), maxChainFile),
		"broken": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
	} {
		path := store(t, text, 0o600)
		if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s as key: %v", name, err)
		}
		if _, err := ReadChain(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s as certificate: %v", name, err)
		}
	}
	if _, err := ReadKey(t.TempDir()); err == nil {
		t.Error("a directory is a key")
	}
	if _, err := ReadKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestEncryptedKeyTellsTheRemedy(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
		"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
		"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n",
	} {
		if _, err := ReadKey(store(t, []byte(text), 0o600)); !errors.Is(err, ErrEncryptedKey) {
			t.Errorf("error %v, want ErrEncryptedKey", err)
		}
	}
}

// What parses as a key has a public half.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseKey(text)
		if (key == nil) == (err == nil) {
			t.Fatalf("ParseKey = %v, %v", key, err)
		}
		if key != nil && key.Public() == nil {
			t.Error("no public key")
		}
	})
}
