package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

// A server that agrees to TLS and then says nothing holds nobody up for ever.
func TestServerThatHangsInTLSIsGivenUp(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1000)) // the request: message 1
				// RFC 4511 section 4.12: an extended response, success
				_, _ = c.Write([]byte{0x30, 0x0c, 0x02, 0x01, 0x01, 0x78, 0x07, 0x0a, 0x01, 0x00, 0x04, 0x00, 0x04, 0x00})
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	path := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(path, []byte("url ldap+tls://"+l.Addr().String()+"\ntimeout 1\nalias_filter (mail=%u)\nalias_attributes uid\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := remote.Open("t", path, open)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil {
		t.Errorf("Lookup = %q", v)
	}
}
