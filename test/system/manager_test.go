//go:build system

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// manager stands for systemd: it binds the socket, passes a secret, and takes
// reports.
type manager struct {
	t       *testing.T
	reports *net.UnixConn
	mu      sync.Mutex
	heard   []string // guarded by mu: messages
}

func newManager(d *daemon) *manager {
	d.t.Helper()
	m := &manager{t: d.t}
	var err error
	if m.reports, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.path("notify"), Net: "unixgram"}); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { m.reports.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := m.reports.Read(buf)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.heard = append(m.heard, string(buf[:n]))
			m.mu.Unlock()
		}
	}()
	return m
}

// count returns how many messages hold a line that begins so.
func (m *manager) count(line string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, text := range m.heard {
		for l := range strings.SplitSeq(text, "\n") {
			if strings.HasPrefix(l, line) {
				n++
			}
		}
	}
	return n
}

// certificate writes a certificate for mx.example.org and its key.
func certificate(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.example.org"}, DNSNames: []string{"mx.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err1 := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	secret, err2 := x509.MarshalPKCS8PrivateKey(private)
	if err := errors.Join(err1, err2,
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o400)); err != nil {
		t.Fatal(err)
	}
}

func TestServiceManagerIsServed(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, `pki mx cert "$dir/mx.crt" key credential:mx-key
listen on $host hostname mx.example.org tls pki mx
listen on socket
`+toMaildir)
	d.mkdir("credentials", "", 0o700)
	certificate(t, d.path("mx.crt"), d.path("credentials/mx-key"))
	m := newManager(d)
	ours, err := net.Listen("tcp", d.address())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	other, err := net.Listen("tcp", net.JoinHostPort(d.host, "2525"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d.prepare = func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+d.path("notify"), "WATCHDOG_USEC=400000",
			"LISTEN_FDS=2", "LISTEN_FDNAMES=smtp:stray", "CREDENTIALS_DIRECTORY="+d.path("credentials"))
		for _, l := range []net.Listener{ours, other} {
			f, err := l.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
	}
	d.start()
	d.wait(fmt.Sprintf(`%s:25 is bound by the service manager`, d.host))
	d.wait(`socket "stray" of the service manager: no listener of the configuration is on`)
	d.await("readiness", func() bool { return m.count("READY=1") == 1 })
	d.await("three signs of life", func() bool { return m.count("WATCHDOG=1") >= 3 })

	// The socket that was passed serves, with the key that was passed.
	c, err := net.Dial("tcp", d.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, line := range []string{"", "EHLO client.example.org\r\n", "STARTTLS\r\n"} {
		if _, err := c.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		if _, err := c.Read(buf); err != nil || buf[0] != '2' {
			t.Fatalf("after %q: %q, %v", line, buf[:20], err)
		}
	}
	s := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := s.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if name := s.ConnectionState().PeerCertificates[0].Subject.CommonName; name != "mx.example.org" {
		t.Errorf("the certificate is that of %s", name)
	}

	d.reload()
	d.await("the report of a reload", func() bool {
		return m.count("RELOADING=1") == 1 && m.count("MONOTONIC_USEC=") == 1 && m.count("READY=1") == 2
	})
	// No role has the descriptors that are the service manager's: they are closed or
	// listeners of the dispatcher.
	for title, p := range d.family() {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && strings.Contains(to, d.path("credentials")) {
				t.Errorf("%s has %s open", title, to)
			}
		}
	}
	d.signal(syscall.SIGTERM)
	d.ended()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(patience); m.count("STOPPING=1") != 1; <-look.C {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for the report of the end")
		}
	}
}
