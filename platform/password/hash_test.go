package password

import (
	"strings"
	"testing"
)

func TestHashesVerify(t *testing.T) {
	t.Parallel()
	v, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, password, form string }{
		{"short", "Passw0rd!", "$2b$"},
		{"as long as bcrypt looks", strings.Repeat("x", bcryptMax), "$2b$"},
		{"longer", strings.Repeat("x", bcryptMax+1), "$6$"},
		{"UTF-8", "pässwörd", "$2b$"},
	} {
		hash, err := Hash(tt.password)
		if err != nil || !strings.HasPrefix(hash, tt.form) {
			t.Errorf("%s: Hash gave %q, %v; want form %s", tt.name, hash, err, tt.form)
			continue
		}
		if err := v.Verify(t.Context(), hash, tt.password); err != nil {
			t.Errorf("%s: the hash %q does not verify: %v", tt.name, hash, err)
		}
		if err := v.Verify(t.Context(), hash, "y"+tt.password); err == nil {
			t.Errorf("%s: another password verifies", tt.name)
		}
	}
	for _, bad := range []string{"", "a\x00b", strings.Repeat("x", MaxLength+1)} {
		if hash, err := Hash(bad); err == nil {
			t.Errorf("Hash(%.10q) = %q, want an error", bad, hash)
		}
	}
}
