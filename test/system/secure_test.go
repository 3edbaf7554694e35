//go:build system

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// authority signs certificates that the daemon under test believes.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue returns a certificate, of an authority when parent is nil.
func issue(t *testing.T, parent *authority, names ...string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	signer, signerKey := c, key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.DNSNames = true, true, x509.KeyUsageCertSign, nil
	} else {
		signer, signerKey = parent.cert, parent.key
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, &key.PublicKey, signerKey)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// writeCertificate writes a certificate and its key into the daemon's directory.
func (d *daemon) writeCertificate(name string, c *x509.Certificate, key *ecdsa.PrivateKey) {
	d.t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write(name+".crt", encode("CERTIFICATE", c.Raw), "", 0o644)
	d.write(name+".key", encode("PRIVATE KEY", private), "", 0o600)
}

// The mail hosts are 127.A.B.2 with a good certificate and 127.A.B.3 with that of
// somebody else. HASH is that of the good one's key.
const signedZone = `$ORIGIN signed.example.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A NET.53
match MX 10 mx.match
mx.match A NET.2
_25._tcp.mx.match TLSA 3 1 1 HASH
mismatch MX 10 mx.mismatch
mx.mismatch A NET.3
_25._tcp.mx.mismatch TLSA 3 1 1 HASH
bogus MX 10 mx.bogus
mx.bogus A NET.2
_25._tcp.mx.bogus TLSA 3 1 1 HASH
none MX 10 mx.none
mx.none A NET.3
`

const plainZone = `$ORIGIN plain.example.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A NET.53
unsigned MX 10 mx.unsigned
mx.unsigned A NET.3
_25._tcp.mx.unsigned TLSA 3 1 1 HASH
good MX 10 mx.match.signed.example.
_mta-sts.good TXT "v=STSv1; id=1"
mta-sts.good A NET.4
enforce MX 10 mx.enforce
mx.enforce A NET.3
_mta-sts.enforce TXT "v=STSv1; id=1"
mta-sts.enforce A NET.4
testing MX 10 mx.testing
mx.testing A NET.3
_mta-sts.testing TXT "v=STSv1; id=1"
mta-sts.testing A NET.4
`

// background starts a program that serves until the end of the test, or until it is
// killed by what is returned.
func background(t *testing.T, name string, args ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to be ended with its children
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			b, _ := os.ReadFile(out.Name())
			t.Logf("%s:\n%s", name, b)
		}
	})
	return kill
}

// command runs a program in a directory and returns its output.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// nameServers starts nsd with a signed and a plain zone, and unbound that validates;
// net is the start of their addresses. It returns the address of unbound.
func nameServers(t *testing.T, net, hash string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		text = strings.NewReplacer("NET", net, "HASH", hash, "DIR", dir).Replace(text)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("signed", signedZone)
	write("plain", plainZone)
	key := strings.TrimSpace(command(t, dir, "ldns-keygen", "-a", "ECDSAP256SHA256", "-k", "signed.example"))
	command(t, dir, "ldns-signzone", "-f", "signed.done", "signed", key)
	b, err := os.ReadFile(filepath.Join(dir, "signed.done"))
	if err != nil {
		t.Fatal(err)
	}
	// The signature of one record set is not right.
	damaged := strings.Replace(string(b), "_25._tcp.mx.bogus.signed.example.\t60\tIN\tTLSA\t3 1 1 "+hash[:8], "_25._tcp.mx.bogus.signed.example.\t60\tIN\tTLSA\t3 1 1 00000000", 1)
	if damaged == string(b) {
		t.Fatalf("no record to damage in\n%s", b)
	}
	write("signed.done", damaged)
	background(t, need(t, "nsd"), "-d", "-c", write("nsd.conf", `
server:
	ip-address: NET.53@5353
	username: root
	chroot: ""
	zonesdir: "DIR"
	pidfile: ""
	xfrdfile: "DIR/xfrd"
	zonelistfile: "DIR/zonelist"
remote-control:
	control-enable: no
zone:
	name: signed.example
	zonefile: signed.done
zone:
	name: plain.example
	zonefile: plain
`))
	background(t, need(t, "unbound"), "-d", "-c", write("unbound.conf", `
server:
	interface: NET.54@5354
	username: ""
	chroot: ""
	directory: "DIR"
	pidfile: ""
	use-syslog: no
	do-not-query-localhost: no
	module-config: "validator iterator"
	trust-anchor-file: "DIR/`+key+`.ds"
	num-threads: 1
remote-control:
	control-enable: no
stub-zone:
	name: signed.example
	stub-addr: NET.53@5353
stub-zone:
	name: plain.example
	stub-addr: NET.53@5353
`))
	return net + ".54:5354"
}

// answers waits until a server takes TCP connections.
func answers(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", addr, err)
		}
	}
}

// abroad is what the tests of secured relaying share: mail hosts, name servers, a
// policy server and a daemon that sends.
type abroad struct {
	hosts, out *daemon
	policies   *httptest.Server
}

func newAbroad(t *testing.T) *abroad {
	t.Helper()
	for _, name := range []string{"nsd", "unbound", "ldns-keygen", "ldns-signzone"} {
		need(t, name)
	}
	ca := &authority{t: t}
	ca.cert, ca.key = issue(t, nil, "authority of a test")
	w := &abroad{hosts: newDaemon(t, `
pki good cert "$dir/good.crt" key "$dir/good.key"
pki other cert "$dir/other.crt" key "$dir/other.key"
listen on NET.2 tls pki good hostname mx.match.signed.example
listen on NET.3 tls pki other hostname mx.other.example
action "keep" maildir "$dir/home/alice/Maildir" virtual { "@" = alice }
match from any for any action "keep"
`)}
	network := strings.TrimSuffix(w.hosts.host, ".1")
	w.hosts.write("smtpd.conf", strings.ReplaceAll(w.hosts.read("smtpd.conf"), "NET", network), "", 0o644)
	good, key := issue(t, ca, "mx.match.signed.example")
	w.hosts.writeCertificate("good", good, key)
	other, otherKey := issue(t, ca, "somebody.else.example")
	w.hosts.writeCertificate("other", other, otherKey)
	w.hosts.start()
	resolver := nameServers(t, network, fmt.Sprintf("%x", sha256.Sum256(good.RawSubjectPublicKeyInfo)))
	answers(t, resolver)
	answers(t, network+".53:5353")

	w.policies = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		domain := strings.TrimPrefix(r.Host, "mta-sts.")
		mode, mx := "enforce", "mx."+domain
		switch domain {
		case "testing.plain.example":
			mode = "testing"
		case "good.plain.example":
			mx = "mx.match.signed.example"
		}
		rw.Header().Set("Content-Type", "text/plain")
		_, _ = fmt.Fprintf(rw, "version: STSv1\nmode: %s\nmx: %s\nmax_age: 86400\n", mode, mx) // the daemon sees what is missing
	}))
	web, webKey := issue(t, ca, "mta-sts.good.plain.example", "mta-sts.enforce.plain.example", "mta-sts.testing.plain.example")
	w.policies.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{web.Raw}, PrivateKey: webKey}}}
	w.policies.Config.ErrorLog = log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", network+".4:8443")
	if err != nil {
		t.Fatal(err)
	}
	w.policies.Listener.Close()
	w.policies.Listener = l
	w.policies.StartTLS()
	t.Cleanup(w.policies.Close)

	w.out = newDaemon(t, "queue retry mta 1s\n"+listen+`
action "out" relay
match from any for any action "out"
`)
	w.out.write("ca.pem", encode("CERTIFICATE", ca.cert.Raw), "", 0o644)
	t.Setenv("SSL_CERT_FILE", w.out.path("ca.pem"))
	w.out.args = []string{"-o", "resolver=" + resolver, "-o", "loopback=25:8443"}
	w.out.start()
	return w
}

// send sends a message by sendmail and waits for what became of it.
func (w *abroad) send(rcpt, want string) {
	w.out.t.Helper()
	w.out.run("alice", "Subject: for "+rcpt+"\n\nx\n", "sendmail", rcpt)
	w.out.wait(`mta delivery .*to=<` + strings.ReplaceAll(rcpt, ".", `\.`) + `> .*` + want)
}

// arrived checks who has got mail.
func (w *abroad) arrived(want ...string) {
	w.out.t.Helper()
	w.hosts.await(fmt.Sprintf("%d deliveries", len(want)), func() bool { return w.hosts.delivered.Load() >= int64(len(want)) })
	names, err := filepath.Glob(w.hosts.path("home/alice/Maildir/new/*"))
	if err != nil || len(names) != len(want) {
		w.out.t.Fatalf("%d messages, %v; want those for %q", len(names), err, want)
	}
	var all strings.Builder
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			w.out.t.Fatal(err)
		}
		all.Write(b)
	}
	for _, rcpt := range want {
		if !strings.Contains(all.String(), "Subject: for "+rcpt+"\n") {
			w.out.t.Errorf("the message for %s has not arrived", rcpt)
		}
	}
}

func TestDANEWithRealNameServers(t *testing.T) {
	w := newAbroad(t)
	w.send("a@match.signed.example", `result="Ok"`)
	w.send("b@mismatch.signed.example", `result="TempFail" .*TLSA`)
	w.send("c@bogus.signed.example", `result="TempFail" .*securely`)
	w.send("d@none.signed.example", `result="Ok"`)
	w.send("e@unsigned.plain.example", `result="Ok"`) // its TLSA records are wrong, but nobody vouches for them
	w.arrived("a@match.signed.example", "d@none.signed.example", "e@unsigned.plain.example")
}

func TestMTASTSWithRealNameServers(t *testing.T) {
	w := newAbroad(t)
	w.send("a@good.plain.example", `result="Ok"`)
	w.send("b@enforce.plain.example", `result="TempFail" .*certificate`)
	w.send("c@testing.plain.example", `result="Ok"`)
	w.out.await("the counts", func() bool {
		text := w.out.run("", "", "smtpctl", "show", "tlsrpt")
		return strings.Contains(text, "testing.plain.example sts success=0 failure=1\n\tcertificate-host-mismatch 1 mx.testing.plain.example ") &&
			strings.Contains(text, "good.plain.example sts success=1 failure=0") && strings.Contains(text, "enforce.plain.example sts success=0 failure=")
	})

	// Without the policy server, after a restart, the policies still hold.
	w.out.stop()
	w.policies.Close()
	w.out.start()
	w.send("d@enforce.plain.example", `result="TempFail" .*certificate`)
	w.send("e@good.plain.example", `result="Ok"`)
	w.arrived("a@good.plain.example", "c@testing.plain.example", "e@good.plain.example")
	if text := w.out.run("", "", "smtpctl", "show", "tlsrpt"); !strings.Contains(text, "testing.plain.example sts success=0 failure=1\n") {
		t.Errorf("the counts have not survived the restart:\n%s", text)
	}
}
