//go:build system

package system

import (
	"crypto/tls"
	"net/smtp"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// logIn tries a password on the daemon, over TLS.
func (d *daemon) logIn(user, password string) error {
	d.t.Helper()
	c, err := smtp.Dial(d.address())
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
		d.t.Fatal(err)
	}
	return c.Auth(smtp.PlainAuth("", user, password, d.host))
}

// TestSystemUsersLogInByPAM runs the daemon with the program that asks PAM. The
// service has no configuration of its own here, so that of "other" holds.
func TestSystemUsersLogInByPAM(t *testing.T) {
	if !exists("/usr/include/security/pam_appl.h") {
		t.Skip("the headers of PAM are not installed")
	}
	d := newDaemon(t, `pki mx cert "$dir/mx.crt" key "$dir/mx.key"
listen on $host hostname mx.example.org tls pki mx auth
`+toMaildir)
	certificate(t, d.path("mx.crt"), d.path("mx.key"))
	d.mkdir("libexec", "", 0o755)
	build := exec.Command("go", "build", "-tags", "pam", "-o", d.path("libexec/auth-pam"), "../../cmd/auth-pam")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build auth-pam: %v\n%s", err, out)
	}
	hash, err := exec.Command(need(t, "openssl"), "passwd", "-6", "right").Output()
	if err != nil {
		t.Fatal(err)
	}
	// The file is this run's own. It is a mount, so it is written, not replaced.
	shadow, err := os.ReadFile("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	changed := regexp.MustCompile(`(?m)^carol:[^:]*:`).ReplaceAllLiteralString(string(shadow), "carol:"+strings.TrimSpace(string(hash))+":")
	if err := os.WriteFile("/etc/shadow", []byte(changed), 0o640); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile("/etc/shadow", shadow, 0o640); err != nil {
			t.Error(err)
		}
	})
	d.args = []string{"-o", "libexec=" + d.path("libexec")}
	d.start()
	if err := d.logIn("carol", "wrong"); err == nil || !strings.HasPrefix(err.Error(), "535 ") {
		t.Errorf("the wrong password is answered by %v, want 535", err)
	}
	if err := d.logIn("carol", "right"); err != nil {
		t.Errorf("the right password is answered by %v", err)
	}
	if err := d.logIn("nobody-is-called-this", "right"); err == nil || !strings.HasPrefix(err.Error(), "535 ") {
		t.Errorf("an unknown user is answered by %v, want 535", err)
	}

	// A program that could have been tampered with is not run: nobody logs in for now.
	if err := os.Chmod(d.path("libexec/auth-pam"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := d.logIn("carol", "right"); err == nil || !strings.HasPrefix(err.Error(), "4") {
		t.Errorf("with a program that anybody can write the answer is %v, want a temporary one", err)
	}
}
