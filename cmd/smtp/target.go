package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// target is the server to talk to.
type target struct {
	host, port  string
	lmtp        bool
	mode        client.TLSMode
	credentials *client.Credentials
}

// parseTarget reads [scheme://[user:password@]]host[:port].
func parseTarget(s string) (target, error) {
	t := target{mode: client.OpportunisticTLS, port: "25"}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "smtp", s
	}
	kind, mode, _ := strings.Cut(strings.ToLower(scheme), "+")
	switch {
	case kind == "smtps" && mode == "":
		t.mode, t.port = client.ImmediateTLS, "465"
	case kind != "smtp" && kind != "lmtp":
		return t, fmt.Errorf("unknown scheme: %q", scheme)
	case mode == "tls":
		t.mode = client.RequireTLS
	case mode == "notls":
		t.mode = client.NoTLS
	case strings.Contains(scheme, "+"):
		return t, fmt.Errorf("unknown scheme: %q", scheme)
	}
	if t.lmtp = kind == "lmtp"; t.lmtp {
		t.port = "" // none is assigned
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 && ok {
		user, password, both := strings.Cut(rest[:i], ":")
		if !both {
			return t, errors.New("user without password in server")
		}
		t.credentials = &client.Credentials{User: user, Password: password}
		rest = rest[i+1:]
	}
	return t, t.setAddress(rest)
}

// setAddress takes host[:port], where an IPv6 address with a port is in brackets.
func (t *target) setAddress(s string) error {
	t.host = s
	if host, port, err := net.SplitHostPort(s); err == nil {
		t.host, t.port = host, port
	} else if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		t.host = s[1 : len(s)-1]
	}
	if n, err := strconv.ParseUint(t.port, 10, 16); t.port != "" && (err != nil || n == 0) {
		return fmt.Errorf("invalid port: %q", t.port)
	}
	switch {
	case t.host == "":
		return errors.New("no host in server")
	case t.port == "":
		return errors.New("LMTP server needs a port")
	}
	return nil
}

// maxCredentials bounds a file of credentials, in bytes.
const maxCredentials = 64 << 10

// readCredentials reads a user name and, on the second line, a password.
func readCredentials(path string) (*client.Credentials, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxCredentials))
	var lines [2]string
	for i := range lines {
		if !s.Scan() {
			if err := s.Err(); err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
			return nil, fmt.Errorf("%s: want a user name and, on the next line, a password", path)
		}
		lines[i] = s.Text()
	}
	return &client.Credentials{User: lines[0], Password: lines[1]}, nil
}

// tlsParams are the parameters of TLS: -C, -S, -T.
type tlsParams struct {
	verify    bool
	noSNI     bool
	name      string // of the server, for its certificate
	caFile    string
	ciphers   string
	protocols string
}

// parse takes a list of parameters, separated by commas.
func (p *tlsParams) parse(list string) error {
	for param := range strings.SplitSeq(list, ",") {
		key, value, hasValue := strings.Cut(param, "=")
		switch {
		case key == "cafile" && value != "":
			p.caFile = value
		case key == "ciphers" && value != "":
			p.ciphers = value
		case key == "protocols" && value != "":
			p.protocols = value
		case key == "servername" && value != "":
			p.name = value
		case key == "noverify" && !hasValue:
			p.verify = false
		case key == "nosni" && !hasValue:
			p.noSNI = true
		default:
			return fmt.Errorf("invalid TLS parameter: %q", param)
		}
	}
	return nil
}

// config returns the configuration of TLS for a server of that name.
func (p *tlsParams) config(host string) (*tls.Config, error) {
	c := tlsconf.Client{ServerName: host, Verify: p.verify, Ciphers: p.ciphers, Protocols: p.protocols}
	if p.name != "" {
		c.ServerName = p.name
	}
	if p.caFile != "" {
		roots, err := os.ReadFile(p.caFile)
		if err != nil {
			return nil, err
		}
		c.Roots = roots
	}
	cfg, err := c.Config()
	if err != nil || !p.noSNI {
		return cfg, err
	}
	name, roots := cfg.ServerName, cfg.RootCAs
	cfg.ServerName, cfg.InsecureSkipVerify = "", true
	if p.verify {
		cfg.VerifyConnection = func(state tls.ConnectionState) error { return verify(state, name, roots) }
	}
	return cfg, nil
}

// verify checks the server's certificate, as crypto/tls does where it sends the
// name it checks.
func verify(state tls.ConnectionState, name string, roots *x509.CertPool) error {
	o := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(o)
	return err
}
