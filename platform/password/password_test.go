package password

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

func newVerifier(t *testing.T) *Verifier {
	t.Helper()
	v, err := New(0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The hashes are of the password "correct horse", made by crypt(3) of libxcrypt.
var hashes = map[string]string{
	"md5":      "$1$c9FUKDLL$XePIgw3bLWhlgZIWGgGSw0",
	"sha256":   "$5$rounds=1000$1m3O2iHDWaf/k4E8$GFTb0xujnNLX2c2qxsDG.wcSWFMrBTxt259tZAA5e1.",
	"sha512":   "$6$rounds=1000$EDqNcRQIrcHbjeUU$Zj3eu2ETia85Avi1KYZPQvxbTdQxSEwQan8Hf9VeiF6GbDAeX64qxQ/B8sY8wsA77G3m2204ovmmL1GtvfIBC0",
	"bcrypt":   "$2b$04$ePoShfkNdwM7plJcHvZtseIYsWqzycHCt5q0uolYBz7c2yjFcCiVG",
	"bcrypt_y": "$2y$04$ezMRaspD8Y5ifVk1g1twaevoIdng3J1RsfgYnpkVejZxM3Nm.kN9S",
	"bcrypt_a": "$2a$04$bNiDsX4a0dsT.MNk2q6wLOf.l93hRvVpy7B2WQbo/ERrxhEnGkIOa",
	"yescrypt": "$y$j75$nXTEiHOvbTv2jzZ/TU.vC2Y/hltq/Q15eWgp0r8iqY7$ryDJ.g3JcIY8soufjDRQvXxbNFoS89A6PfxwCPj3nw8",
	"sha1":     "$sha1$759$90rywtK5TvQhLQ.2VE9zfVuyIB0k0Xo2BDm7$tQqfhPTu8SAXkjn67mOtipBWjuqr",
	"sunmd5":   "$md5,rounds=34003$57VLmmCc$$umAwsOa7ZH9xwLcsqptmY.",
}

func TestHashesOfTheSystemAreVerified(t *testing.T) {
	t.Parallel()
	v := newVerifier(t)
	for name, hash := range hashes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := v.Verify(t.Context(), hash, "correct horse"); err != nil {
				t.Errorf("right password: %v", err)
			}
			if err := v.Verify(t.Context(), hash, "correct horsf"); !errors.Is(err, ErrMismatch) {
				t.Errorf("wrong password: %v, want ErrMismatch", err)
			}
		})
	}
}

func TestDummyIsAHash(t *testing.T) {
	t.Parallel()
	if err := newVerifier(t).Verify(t.Context(), Dummy, "x"); !errors.Is(err, ErrMismatch) {
		t.Errorf("Verify(Dummy) = %v, want ErrMismatch", err)
	}
}

func TestNothingMatches(t *testing.T) {
	t.Parallel()
	v := newVerifier(t)
	for _, hash := range []string{"", "*", "!", "!!", "x", "*LK*", "!" + hashes["sha512"]} {
		for _, pw := range []string{"", "*", "x", "correct horse"} {
			if err := v.Verify(t.Context(), hash, pw); !errors.Is(err, ErrMismatch) {
				t.Errorf("Verify(%q, %q) = %v, want ErrMismatch", hash, pw, err)
			}
		}
	}
	for _, pw := range []string{"", "correct horse\x00", strings.Repeat("a", MaxLength+1)} {
		if err := v.Verify(t.Context(), hashes["sha512"], pw); !errors.Is(err, ErrMismatch) {
			t.Errorf("password %.20q: %v, want ErrMismatch", pw, err)
		}
	}
}

func TestUnknownHashIsNotAMismatch(t *testing.T) {
	t.Parallel()
	for _, hash := range []string{"$7$CU..../....x$y", "abcdefghijklm", "$6$", "$y$x", "hunter2"} {
		err := newVerifier(t).Verify(t.Context(), hash, "x")
		if err == nil || errors.Is(err, ErrMismatch) {
			t.Errorf("Verify(%q) = %v, want an error that is no mismatch", hash, err)
		}
		if err != nil && len(hash) > 4 && strings.Contains(err.Error(), hash) {
			t.Errorf("error %q shows the hash", err)
		}
	}
}

func TestVerificationWaitsItsTurnNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	v, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	v.slots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.Verify(ctx, Dummy, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

// now is day 20000 since 1970.
var now = time.Unix(20000*86400+5, 0)

func TestAccounts(t *testing.T) {
	t.Parallel()
	hash := hashes["sha512"]
	for _, tt := range []struct {
		name   string
		format Format
		line   string // the account of u
		ok     bool
		temp   bool
	}{
		{"plain account", Shadow, "u:" + hash + ":19000:0:99999:7:::", true, false},
		{"nothing said about age", Shadow, "u:" + hash + ":::::::", true, false},
		{"account expires tomorrow", Shadow, "u:" + hash + ":19000:0:99999:7::20001:", true, false},
		{"account expires today", Shadow, "u:" + hash + ":19000:0:99999:7::20000:", false, false},
		{"password's last day", Shadow, "u:" + hash + ":19990:0:10:7:::", true, false},
		{"password a day too old", Shadow, "u:" + hash + ":19989:0:10:7:::", false, false},
		{"password must be changed", Shadow, "u:" + hash + ":0:0:99999:7:::", false, false},
		{"locked", Shadow, "u:!" + hash + ":19000:0:99999:7:::", false, false},
		{"no password", Shadow, "u::19000:0:99999:7:::", false, false},
		{"star", Shadow, "u:*:19000:0:99999:7:::", false, false},
		{"another user", Shadow, "uu:" + hash + ":19000:0:99999:7:::", false, false},
		{"too few fields", Shadow, "u:" + hash + ":19000", false, true},
		{"bad number", Shadow, "u:" + hash + ":soon:0:99999:7:::", false, true},
		{"absurd number", Shadow, "u:" + hash + ":1:0:9223372036854775807:7:::", false, true},
		{"unknown hash", Shadow, "u:$9$x$y:19000:0:99999:7:::", false, true},
		{"plain account", Master, "u:" + hash + ":1000:1000::0:0:U:/home/u:/bin/ksh", true, false},
		{"expired", Master, "u:" + hash + ":1000:1000:staff:0:1728000005:U:/home/u:/bin/ksh", false, false},
		{"expires in a second", Master, "u:" + hash + ":1000:1000:staff:0:1728000006:U:/home/u:/bin/ksh", true, false},
		{"password expired", Master, "u:" + hash + ":1000:1000:staff:1728000005:0:U:/home/u:/bin/ksh", false, false},
		{"locked", Master, "u:*************:1000:1000::0:0:U:/home/u:/bin/ksh", false, false},
		{"locked by pw", Master, "u:*LOCKED*" + hash + ":1000:1000::0:0:U:/home/u:/bin/ksh", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "shadow")
			text := "root:*:19000:0:99999:7:::\nother:" + hashes["md5"] + ":19000:0:99999:7:::\n" + tt.line + "\n"
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			a := Accounts{Path: path, Format: tt.format, Verify: newVerifier(t), Now: func() time.Time { return now }}
			err := a.Check(t.Context(), "u", "correct horse")
			if (err == nil) != tt.ok {
				t.Errorf("right password: %v; accepted should be %v", err, tt.ok)
			}
			if err != nil && errors.Is(err, platform.ErrBadPassword) == tt.temp {
				t.Errorf("right password: %v; temporary should be %v", err, tt.temp)
			}
			if err := a.Check(t.Context(), "u", "wrong"); err == nil {
				t.Error("wrong password accepted")
			}
			if err := a.Check(t.Context(), "", "correct horse"); !errors.Is(err, platform.ErrBadPassword) {
				t.Errorf("empty user: %v", err)
			}
		})
	}
}

func TestMissingAccountsAreTemporary(t *testing.T) {
	t.Parallel()
	a := Accounts{Path: filepath.Join(t.TempDir(), "none"), Verify: newVerifier(t)}
	err := a.Check(t.Context(), "u", "x")
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, platform.ErrBadPassword) {
		t.Errorf("error %v, want that of the file", err)
	}
}

// No hash, however broken, makes Verify panic or match what is no password.
func FuzzDecode(f *testing.F) {
	for _, h := range hashes {
		f.Add(h)
	}
	f.Add("$6$rounds=1000$a$b")
	f.Add("$2b$04$")
	v, err := New(0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, hash string) {
		if d, err := v.decoder.Decode(hash); err == nil && d == nil {
			t.Errorf("Decode(%q) is neither a digest nor an error", hash)
		}
	})
}

// What parses as an account is refused or not without a panic at any time.
func FuzzParseAccount(f *testing.F) {
	f.Add("$6$a$b:19000:0:99999:7:::", int64(0))
	f.Add("*:1000:1000::0:0:U:/home/u:/bin/ksh", int64(1))
	f.Fuzz(func(t *testing.T, rest string, at int64) {
		for _, format := range []Format{Shadow, Master} {
			a, err := parseAccount(rest, format)
			if (a == nil) == (err == nil) {
				t.Fatalf("parseAccount(%q) = %v, %v", rest, a, err)
			}
			if a != nil {
				a.refused(time.Unix(at, 0))
			}
		}
	})
}

// FuzzVerify states that a damaged hash neither panics nor matches. Forms whose
// cost is in the hash are left out: it may say days.
func FuzzVerify(f *testing.F) {
	v, err := New(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("$1$abcdefgh$ZUBZYs2hL2.Uhj1lVWyJq.")
	f.Add("$1$$")
	f.Add("$1$abcdefgh")
	f.Fuzz(func(t *testing.T, hash string) {
		if !strings.HasPrefix(hash, "$1$") {
			hash = "$1$" + hash
		}
		if err := v.Verify(t.Context(), hash, "wrong"); err == nil {
			t.Errorf("%q matches", hash)
		}
	})
}
