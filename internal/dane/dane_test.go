package dane

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// now is when the certificates of the tests are looked at.
var now = time.Date(2030, 6, 1, 0, 0, 0, 0, time.UTC)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes a certificate, signed by parent or by itself.
func issue(t testing.TB, parent *pair, ca bool, from, to time.Time, names ...string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serial.String()},
		NotBefore: from, NotAfter: to, DNSNames: names,
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	signer, issuer := crypto.Signer(key), template
	if parent != nil {
		signer, issuer = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key}
}

// record makes the record for a certificate.
func record(usage, selector, matching uint8, c *x509.Certificate) Record {
	data := c.Raw
	if selector == selectKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return Record{usage, selector, matching, data}
}

func TestCertificateIsHeldAgainstRecords(t *testing.T) {
	t.Parallel()
	from, to := now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0)
	root := issue(t, nil, true, from, to)
	middle := issue(t, &root, true, from, to)
	leaf := issue(t, &middle, false, from, to, "mx.example.org")
	wild := issue(t, &root, false, from, to, "*.example.org")
	expired := issue(t, nil, false, from, now.AddDate(0, -1, 0), "elsewhere.example.net")
	expiredTA := issue(t, &root, false, from, now.AddDate(0, -1, 0), "mx.example.org")
	oldRoot := issue(t, nil, true, from, now.AddDate(0, -1, 0))
	underOld := issue(t, &oldRoot, false, from, to, "mx.example.org")
	self := issue(t, nil, false, from, to, "mx.example.org")
	other := issue(t, nil, true, from, to, "mx.example.org")
	forged := issue(t, &other, false, from, to, "mx.example.org")
	full := []*x509.Certificate{leaf.cert, middle.cert, root.cert}
	names := []string{"mx.example.org", "example.org"}
	for _, tt := range []struct {
		name    string
		chain   []*x509.Certificate
		records []Record
		names   []string
		ok      bool
	}{
		{"3 0 0", full, []Record{record(3, 0, 0, leaf.cert)}, names, true},
		{"3 0 1", full, []Record{record(3, 0, 1, leaf.cert)}, names, true},
		{"3 0 2", full, []Record{record(3, 0, 2, leaf.cert)}, names, true},
		{"3 1 0", full, []Record{record(3, 1, 0, leaf.cert)}, names, true},
		{"3 1 1", full, []Record{record(3, 1, 1, leaf.cert)}, names, true},
		{"3 1 2", full, []Record{record(3, 1, 2, leaf.cert)}, names, true},
		{"usage 3, expired and for another name", []*x509.Certificate{expired.cert}, []Record{record(3, 1, 1, expired.cert)}, names, true},
		{"usage 3 is about the first certificate only", full, []Record{record(3, 1, 1, root.cert)}, names, false},
		{"usage 3, another key", full, []Record{record(3, 1, 1, other.cert)}, names, false},
		{"one of several", full, []Record{record(3, 1, 1, other.cert), record(3, 1, 1, leaf.cert)}, names, true},
		{"unusable ones beside", full, []Record{record(1, 1, 1, other.cert), {3, 9, 1, nil}, record(3, 1, 1, leaf.cert)}, names, true},
		{"stronger digest decides", full, []Record{record(3, 1, 1, leaf.cert), record(3, 1, 2, other.cert)}, names, false},
		{"usage 1 says nothing", full, []Record{record(1, 1, 1, leaf.cert)}, names, false},

		{"2 0 1 root", full, []Record{record(2, 0, 1, root.cert)}, names, true},
		{"2 1 2 root", full, []Record{record(2, 1, 2, root.cert)}, names, true},
		{"2 1 1 intermediate", full[:2], []Record{record(2, 1, 1, middle.cert)}, names, true},
		{"2 0 0 root that is not sent", full[:2], []Record{record(2, 0, 0, root.cert)}, names, true},
		{"2 0 1 root that is not sent", full[:2], []Record{record(2, 0, 1, root.cert)}, names, false},
		{"second name", []*x509.Certificate{issue(t, &root, false, from, to, "example.org").cert, root.cert}, []Record{record(2, 0, 1, root.cert)}, names, true},
		{"wildcard name", []*x509.Certificate{wild.cert, root.cert}, []Record{record(2, 0, 1, root.cert)}, names, true},
		{"usage 2, another name", full, []Record{record(2, 0, 1, root.cert)}, []string{"mx.example.net"}, false},
		{"usage 2 without a name", full, []Record{record(2, 0, 1, root.cert)}, nil, false},
		{"usage 2, expired", []*x509.Certificate{expiredTA.cert, root.cert}, []Record{record(2, 0, 1, root.cert)}, names, false},
		{"usage 2, authority expired", []*x509.Certificate{underOld.cert, oldRoot.cert}, []Record{record(2, 0, 1, oldRoot.cert)}, names, false},
		{"authority sent but not the issuer", []*x509.Certificate{forged.cert, root.cert}, []Record{record(2, 0, 1, root.cert)}, names, false},
		{"usage 2 with a certificate that signed itself", []*x509.Certificate{self.cert}, []Record{record(2, 0, 1, self.cert)}, names, true},
		{"usage 2 beside a usage 3 that does not match", full, []Record{record(3, 1, 1, other.cert), record(2, 0, 1, root.cert)}, names, true},

		{"no certificate", nil, []Record{record(3, 1, 1, leaf.cert)}, names, false},
		{"no record", full, nil, names, false},
	} {
		err := Verify(tt.chain, tt.records, tt.names, now)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success %v", tt.name, err, tt.ok)
		}
	}
	for want, err := range map[error]error{
		ErrNoCertificate: Verify(nil, []Record{record(3, 1, 1, leaf.cert)}, nil, now),
		ErrNoRecord:      Verify(full, []Record{record(0, 1, 1, leaf.cert)}, names, now),
		ErrMismatch:      Verify(full, []Record{record(2, 1, 1, other.cert)}, names, now),
	} {
		if !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
}

func TestUnusableRecords(t *testing.T) {
	t.Parallel()
	leaf := issue(t, nil, false, now, now.AddDate(1, 0, 0), "mx.example.org").cert
	sum := record(3, 1, 1, leaf).Data
	for name, r := range map[string]Record{
		"usage 0":              {0, 1, 1, sum},
		"usage 1":              {1, 1, 1, sum},
		"usage 4":              {4, 1, 1, sum},
		"usage 255":            {255, 0, 1, sum},
		"selector 2":           {3, 2, 1, sum},
		"matching type 3":      {3, 1, 3, sum},
		"short digest":         {3, 1, 1, sum[1:]},
		"long digest":          {3, 1, 1, append(sum[:32:32], 0)},
		"SHA-512 of 32 bytes":  {3, 1, 2, sum},
		"no data":              {3, 1, 0, nil},
		"no certificate":       {2, 0, 0, leaf.Raw[1:]},
		"no key":               {2, 1, 0, leaf.Raw},
		"certificate too long": {3, 0, 0, append(leaf.Raw[:len(leaf.Raw):len(leaf.Raw)], make([]byte, maxData)...)},
	} {
		if got := Usable([]Record{r}); len(got) != 0 {
			t.Errorf("%s: taken as usable", name)
		}
	}
	many := make([]Record, 100)
	for i := range many {
		many[i] = Record{3, 1, 1, bytes.Repeat([]byte{byte(i)}, 32)}
	}
	if got := Usable(many); len(got) != MaxRecords {
		t.Errorf("%d records used, want %d", len(got), MaxRecords)
	}
}

func TestHandshakeIsHeldAgainstRecords(t *testing.T) {
	t.Parallel()
	leaf := issue(t, nil, false, now, now.AddDate(1, 0, 0), "elsewhere.example.net")
	for _, tt := range []struct {
		name string
		rec  Record
		want error
	}{
		{"match", record(3, 1, 1, leaf.cert), nil},
		{"mismatch", Record{3, 1, 1, make([]byte, 32)}, ErrMismatch},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			server, err := l.Accept()
			if err != nil {
				done <- err
				return
			}
			defer server.Close()
			s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key}}})
			_, err = io.ReadFull(s, make([]byte, 1))
			done <- err
		}()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg := &tls.Config{ServerName: "mx.example.org"}
		Configure(cfg, []Record{tt.rec}, []string{"mx.example.org"}, func() time.Time { return now })
		c := tls.Client(client, cfg)
		err = c.HandshakeContext(t.Context())
		if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err == nil {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		client.Close()
		l.Close()
		if err := <-done; (err == nil) != (tt.want == nil) {
			t.Errorf("%s: server got %v", tt.name, err)
		}
	}
}

// Whatever a record holds, it is usable or not, and a usable one that matches a
// chain is checked without harm; one that does not match never lets it pass.
func FuzzRecord(f *testing.F) {
	leaf := issue(f, nil, true, now, now.AddDate(1, 0, 0), "mx.example.org").cert
	for _, r := range []Record{record(3, 1, 1, leaf), record(2, 0, 0, leaf), record(3, 1, 0, leaf), record(2, 1, 2, leaf)} {
		f.Add(r.Usage, r.Selector, r.Matching, r.Data)
	}
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data []byte) {
		r := Record{usage, selector, matching, data}
		err := Verify([]*x509.Certificate{leaf}, []Record{r}, []string{"mx.example.org"}, now)
		if err == nil && (len(Usable([]Record{r})) != 1 || !r.matches(leaf)) {
			t.Errorf("%s lets a certificate pass", r)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	leaf := issue(b, nil, false, now, now.AddDate(1, 0, 0), "mx.example.org").cert
	chain, records := []*x509.Certificate{leaf}, []Record{record(3, 1, 1, leaf)}
	for b.Loop() {
		if err := Verify(chain, records, nil, now); err != nil {
			b.Fatal(err)
		}
	}
}
