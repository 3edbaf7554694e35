package main

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dnstest"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// authority signs certificates that the daemons of a test believe.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

// pem returns the authority's own certificate.
func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// sign returns a certificate for names.
func (a *authority) sign(names ...string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// write writes a certificate and its key into the daemon's directory, as NAME.crt
// and NAME.key.
func (a *authority) write(m *mta, name string, c tls.Certificate) {
	a.t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	m.file(name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	m.file(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// policyServer serves policies of MTA-STS for all domains of its map.
type policyServer struct {
	*httptest.Server
	mu       sync.Mutex
	policies map[string]string // by domain
}

func (a *authority) policyServer(policies map[string]string) *policyServer {
	a.t.Helper()
	var names []string
	for d := range policies {
		names = append(names, "mta-sts."+d)
	}
	s := &policyServer{policies: policies}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, s.policies[strings.TrimPrefix(r.Host, "mta-sts.")]) // the daemon sees what is missing
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{a.sign(names...)}}
	s.StartTLS()
	a.t.Cleanup(s.Close)
	return s
}

// stsPolicy returns the text of a policy.
func stsPolicy(mode, mx string) string {
	return fmt.Sprintf("version: STSv1\nmode: %s\nmx: %s\nmax_age: 86400\n", mode, mx)
}

// abroad is a world of mail hosts on this machine: the hosts of one daemon with
// several certificates, a name server and a policy server.
type abroad struct {
	ca       *authority
	dns      *dnstest.Server
	policies *policyServer
	hosts    *mta
}

// hostsConf are the mail hosts: 127.0.0.2 has the certificate of mx.good.example,
// 127.0.0.3 that of another name, 127.0.0.4 none.
const hostsConf = `
pki good cert "DIR/good.crt" key "DIR/good.key"
pki bad cert "DIR/bad.crt" key "DIR/bad.key"
table owner { owner = $owner }
table everybody { "@" = owner }
listen on 127.0.0.2 port $port tls pki good hostname mx.good.example
listen on 127.0.0.3 port $port tls pki bad hostname mx.bad.example
listen on 127.0.0.4 port $port hostname mx.clear.example
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any for any action "keep"
`

// newAbroad starts the hosts. Records of zone may have HASH for the SHA-256 of the
// key of mx.good.example, and PORT for the port of the mail hosts.
func newAbroad(t *testing.T, zone string, policies map[string]string) *abroad {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	}
	l.Close()
	w := &abroad{ca: newAuthority(t)}
	good := w.ca.sign("mx.good.example")
	w.hosts = newMTA(t, hostsConf)
	w.ca.write(w.hosts, "good", good)
	w.ca.write(w.hosts, "bad", w.ca.sign("somebody.else.example"))
	w.hosts.start()
	leaf, err := x509.ParseCertificate(good.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.hosts.addr)
	hash := fmt.Sprintf("%x", sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
	w.dns = dnstest.Start(t, strings.NewReplacer("HASH", hash, "PORT", port).Replace(zone))
	if policies != nil {
		w.policies = w.ca.policyServer(policies)
	}
	return w
}

// sender returns a daemon, not started, that sends to the world outside.
func (w *abroad) sender(t *testing.T, conf string) *mta {
	t.Helper()
	_, smtp, _ := net.SplitHostPort(w.hosts.addr)
	https := "443"
	if w.policies != nil {
		_, https, _ = net.SplitHostPort(w.policies.Listener.Addr().String())
	}
	m := newMTA(t, conf, "-o", "resolver="+w.dns.Addr(), "-o", "loopback="+smtp+":"+https)
	m.env = append(m.env, "SSL_CERT_FILE="+m.file("ca.pem", w.ca.pem()), "SSL_CERT_DIR="+m.dir)
	return m
}

// outConf relays all mail by MX.
const outConf = `
queue retry mta 1s
listen on $host port $port hostname out.example.org
action "out" relay
match from any for any action "out"
`

const stsZone = `
good.example.  MX 10 mx.good.example.
mx.good.example. A 127.0.0.2
_mta-sts.good.example. TXT "v=STSv1; id=1"
mta-sts.good.example. A 127.0.0.1
bad.example.   MX 10 mx.bad.example.
mx.bad.example. A 127.0.0.3
_mta-sts.bad.example. TXT "v=STSv1; id=1"
mta-sts.bad.example. A 127.0.0.1
testing.example. MX 10 mx.testing.example.
mx.testing.example. A 127.0.0.3
_mta-sts.testing.example. TXT "v=STSv1; id=1"
mta-sts.testing.example. A 127.0.0.1
other.example. MX 10 mx.good.example.
_mta-sts.other.example. TXT "v=STSv1; id=1"
mta-sts.other.example. A 127.0.0.1
`

func TestPolicyOfTheRecipientsDomainIsObeyed(t *testing.T) {
	t.Parallel()
	w := newAbroad(t, stsZone, map[string]string{
		"good.example": stsPolicy("enforce", "mx.good.example"), "bad.example": stsPolicy("enforce", "mx.bad.example"),
		"testing.example": stsPolicy("testing", "mx.testing.example"), "other.example": stsPolicy("enforce", "mx.other.example"),
	})
	m := w.sender(t, outConf)
	m.start()
	m.send("one@good.example", "verified")
	m.wait(`mta cert-check result="valid"`)
	m.wait(`mta delivery .*to=<one@good\.example> .*result="Ok"`)
	m.send("two@bad.example", "never sent")
	m.wait(`mta delivery .*to=<two@bad\.example> .*result="TempFail" .*certificate`)
	m.send("three@testing.example", "sent all the same")
	m.wait(`mta delivery .*to=<three@testing\.example> .*result="Ok"`)
	m.send("four@other.example", "host is not in the policy")
	m.wait(`mta delivery .*to=<four@other\.example> .*result="TempFail" .*securely`)

	// Policies are believed while nobody can be asked, also after a restart.
	m.stop()
	w.policies.Close()
	for _, d := range []string{"good", "bad"} {
		w.dns.Remove("_mta-sts." + d + ".example")
	}
	m.start()
	m.send("five@good.example", "verified again")
	m.wait(`mta cert-check result="valid"`)
	m.wait(`mta delivery .*to=<five@good\.example> .*result="Ok"`)
	m.send("six@bad.example", "never sent")
	m.wait(`mta delivery .*to=<six@bad\.example> .*result="TempFail" .*certificate`)

	for _, who := range []string{"one@good", "three@testing", "five@good"} {
		w.hosts.wait(`mda delivery .*to=<` + who + `\.example> .*result=Ok`)
	}
	if all := strings.Join(w.hosts.mails(), "\n"); strings.Contains(all, "never sent") || strings.Contains(all, "not in the policy") {
		t.Errorf("mail went to a host that the policy excludes:\n%s", all)
	}
}

const daneZone = `
good.example.  MX 10 mx.good.example.
mx.good.example. A 127.0.0.2
_PORT._tcp.mx.good.example. TLSA 3 1 1 HASH
bad.example.   MX 10 mx.bad.example.
mx.bad.example. A 127.0.0.3
_PORT._tcp.mx.bad.example. TLSA 3 1 1 HASH
clear.example. MX 10 mx.clear.example.
mx.clear.example. A 127.0.0.4
_PORT._tcp.mx.clear.example. TLSA 3 1 1 HASH
unsigned.example. MX 10 mx.unsigned.example.
mx.unsigned.example. A 127.0.0.3
_PORT._tcp.mx.unsigned.example. TLSA 3 1 1 HASH
broken.example. MX 10 mx.broken.example.
mx.broken.example. A 127.0.0.2
`

func TestTLSARecordsAreObeyed(t *testing.T) {
	t.Parallel()
	w := newAbroad(t, daneZone, nil)
	_, port, _ := net.SplitHostPort(w.hosts.addr)
	for _, d := range []string{"good", "bad", "clear", "broken"} {
		for _, name := range []string{d, "mx." + d, "_" + port + "._tcp.mx." + d} {
			w.dns.Set(name+".example", dnstest.Fault{Authentic: true})
		}
	}
	w.dns.Set("_"+port+"._tcp.mx.broken.example", dnstest.Fault{Rcode: dnstest.ServFail})
	m := w.sender(t, outConf)
	m.start()
	for _, tt := range []struct{ rcpt, want string }{
		{"one@good.example", `result="Ok"`},
		{"two@bad.example", `result="TempFail" .*TLSA`},
		{"three@clear.example", `result="TempFail" .*TLS required but not supported`},
		{"four@unsigned.example", `result="Ok"`},
		{"five@broken.example", `result="TempFail" .*securely`},
	} {
		m.send(tt.rcpt, "for "+tt.rcpt)
		m.wait(`mta delivery .*to=<` + strings.ReplaceAll(tt.rcpt, ".", `\.`) + `> .*` + tt.want)
	}
	w.hosts.wait(`mda delivery .*to=<one@good\.example> .*result=Ok`)
	w.hosts.wait(`mda delivery .*to=<four@unsigned\.example> .*result=Ok`)
	if n := len(w.hosts.mails()); n != 2 {
		t.Errorf("%d messages arrived, want 2", n)
	}
}

func TestActionSaysHowMailIsProtected(t *testing.T) {
	t.Parallel()
	w := newAbroad(t, daneZone, nil)
	_, port, _ := net.SplitHostPort(w.hosts.addr)
	for _, name := range []string{"good", "mx.good", "_" + port + "._tcp.mx.good", "bad", "mx.bad", "_" + port + "._tcp.mx.bad"} {
		w.dns.Set(name+".example", dnstest.Fault{Authentic: true})
	}
	m := w.sender(t, `
queue retry mta 1s
listen on $host port $port hostname out.example.org
action "dane" relay tls dane
action "sts" relay tls sts
action "any" relay tls opportunistic
match from any mail-from "dane@example.net" for any action "dane"
match from any mail-from "sts@example.net" for any action "sts"
match from any mail-from "any@example.net" for any action "any"
`)
	m.start()
	for _, tt := range []struct{ sender, domain, want string }{
		{"dane", "good.example", `result="Ok"`},
		{"dane", "unsigned.example", `result="TempFail" .*securely`},
		{"sts", "good.example", `result="Ok"`},
		{"sts", "unsigned.example", `result="TempFail" .*securely`},
		{"any", "bad.example", `result="Ok"`}, // its TLSA records are wrong
		{"any", "clear.example", `result="Ok"`},
	} {
		m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<"+tt.sender+"@example.net>", "^250", "RCPT TO:<"+tt.sender+"@"+tt.domain+">", "^250",
			"DATA", "^354", "Subject: test\r\n\r\nx\r\n.", "^250", "QUIT", "^221")
		m.wait(`mta delivery .*to=<` + tt.sender + `@` + tt.domain + `> .*` + tt.want)
	}
}

// reportConf sends mail for the domains of the world abroad, and reports to ours.
const reportConf = `
report tls from "tls@example.org" organization "Example"
table owner { owner = $owner }
table everybody { "@" = owner }
queue retry mta 1h
listen on $host port $port hostname out.example.org
action "keep" maildir $maildir virtual <everybody> userbase <owner>
action "out" relay
match from any for domain "reports.example" action "keep"
match from any for any action "out"
`

// tlsCounts returns what was counted, a line for each domain and policy.
func (m *mta) tlsCounts() string {
	m.t.Helper()
	var out []string
	for _, s := range ask(m, proto.ListTLS, proto.ListTLSRequest{}).Summaries {
		for _, p := range s.Policies {
			line := fmt.Sprintf("%s %s %d/%d", s.Domain, p.Policy.Type, p.Success, p.Failure)
			for _, d := range p.Failures {
				line += " " + string(d.Result)
			}
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// waitForCounts waits until the counts are as wanted: they come a moment after the
// log line of a delivery.
func (m *mta) waitForCounts(want string) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got := m.tlsCounts()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("counted\n%s\nwant\n%s", got, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestSessionsAreCountedAndReported(t *testing.T) {
	t.Parallel()
	w := newAbroad(t, stsZone+`
clear.example. MX 10 mx.clear.example.
mx.clear.example. A 127.0.0.4
_smtp._tls.bad.example. TXT "v=TLSRPTv1; rua=mailto:bad@reports.example"
`, map[string]string{
		"good.example": stsPolicy("enforce", "mx.good.example"), "bad.example": stsPolicy("enforce", "mx.bad.example"),
		"testing.example": stsPolicy("testing", "mx.testing.example"), "other.example": stsPolicy("enforce", "mx.other.example"),
	})
	m := w.sender(t, reportConf)
	m.start()
	for _, tt := range []struct{ rcpt, result string }{
		{"a@good.example", "Ok"}, {"b@bad.example", "TempFail"}, {"c@testing.example", "Ok"}, {"d@other.example", "TempFail"}, {"e@clear.example", "Ok"},
	} {
		m.send(tt.rcpt, "x")
		m.wait(`mta delivery .*to=<` + tt.rcpt + `> .*result="` + tt.result + `"`)
	}
	want := `bad.example sts 0/1 certificate-host-mismatch
clear.example no-policy-found 0/1 starttls-not-supported
good.example sts 1/0
other.example sts 0/1 validation-failure
testing.example sts 0/1 certificate-host-mismatch`
	m.waitForCounts(want)
	m.stop()

	// As if the day was over: the record of a day becomes that of an earlier one.
	dir := filepath.Join(m.dir, "spool", "keep", "tlsrpt")
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("records %q, %v", names, err)
	}
	before := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -2)
	rewriteDay(t, names[0], filepath.Join(dir, before.Format(time.DateOnly)), before)
	m.writeConf(reportConf)
	m.start()
	m.wait(`tls-report domain=bad\.example day=` + before.Format(time.DateOnly) + ` to=<bad@reports\.example>`)
	m.wait(`mda delivery .*from=<tls@example\.org> to=<bad@reports\.example> .*result=Ok`)
	mails := m.mails()
	if len(mails) != 1 {
		t.Fatalf("%d messages, want one report", len(mails))
	}
	for _, want := range []string{
		"Subject: Report Domain: bad.example", "TLS-Report-Domain: bad.example", "TLS-Required: No", `report-type="tlsrpt"`, "application/tlsrpt+gzip",
	} {
		if !strings.Contains(mails[0], want) {
			t.Errorf("the report has no %q:\n%s", want, mails[0])
		}
	}
}

// rewriteDay gives the record of a day to another one.
func rewriteDay(t *testing.T, from, to string, day time.Time) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var list []tlsrpt.Summary
	if err := json.NewDecoder(z).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i].Day = day
	}
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if err := errors.Join(json.NewEncoder(zw).Encode(list), zw.Close(), os.WriteFile(to, out.Bytes(), 0o600), os.Remove(from)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(to, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSenderRequiresTLS(t *testing.T) {
	t.Parallel()
	w := newAbroad(t, stsZone+`
clear.example. MX 10 mx.clear.example.
mx.clear.example. A 127.0.0.4
example.net. MX 0 .
`, map[string]string{
		"good.example": stsPolicy("enforce", "mx.good.example"), "bad.example": stsPolicy("enforce", "mx.bad.example"),
		"testing.example": stsPolicy("testing", "mx.testing.example"), "other.example": stsPolicy("enforce", "mx.other.example"),
	})
	m := w.sender(t, `
pki out cert "DIR/out.crt" key "DIR/out.key"
queue retry mta 1s
listen on $host port $port tls pki out hostname out.example.org
action "out" relay
match from any for any action "out"
`)
	w.ca.write(m, "out", w.ca.sign("out.example.org"))
	m.start()
	m.dialogue("^220", "EHLO client.example.net", `(?s)^250 ([^R]|R[^E])*$`,
		"MAIL FROM:<sender@example.net> REQUIRETLS", `^530 5\.7\.10 `)
	c, _ := m.startTLS("out.example.org")
	m.talk(c, "EHLO client.example.net", `(?s)^250 .*\nREQUIRETLS\n`)
	for _, tt := range []struct{ rcpt, want string }{
		{"one@good.example", `result="Ok"`},
		{"two@clear.example", `result="PermFail" .*as securely as the sender requires`},
	} {
		m.talk(c, "MAIL FROM:<sender@example.net> REQUIRETLS", "^250", "RCPT TO:<"+tt.rcpt+">", "^250",
			"DATA", "^354", "Subject: secret\r\n\r\nx\r\n.", "^250")
		m.wait(`mta delivery .*to=<` + tt.rcpt + `> .*` + tt.want)
	}
	// The next host takes over the demand.
	w.hosts.wait(`mda delivery .*to=<one@good\.example> .*result=Ok`)

	// Mail that says it does not matter goes where a policy would not let it.
	m.talk(c, "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<three@bad.example>", "^250",
		"DATA", "^354", "Subject: report\r\ntls-required: no\r\n\r\nx\r\n.", "^250")
	m.wait(`mta delivery .*to=<three@bad\.example> .*result="Ok"`)
}
