package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
)

// connectTimeout bounds one connection.
const connectTimeout = 5 * time.Second

// dialer keeps one connection, on which questions are asked side by side.
type dialer struct {
	url                string // ldap, ldaps or ldapi
	startTLS           bool
	tls                *tls.Config
	username, password string
	timeout            time.Duration
	guard              remote.Guard

	mu   sync.Mutex // held while a connection is made; guards conn
	conn *ldap.Conn
}

// newDialer reads where the server is and who we are.
func newDialer(c *remote.Conf) (*dialer, error) {
	d := &dialer{username: c.Get("username"), password: c.Get("password")}
	text := c.Get("url")
	if text == "" {
		return nil, errors.New("url is missing")
	}
	if !strings.Contains(text, "://") {
		text = "ldap://" + text
	}
	if path, ok := strings.CutPrefix(text, "ldapi://"); ok { // a local socket, its path escaped or not
		path, err := url.PathUnescape(path)
		if err != nil {
			return nil, errors.New("url is not understood")
		}
		d.url = "ldapi://" + path
		return d, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("url is not understood")
	}
	if u.Scheme == "ldap+tls" {
		u.Scheme, d.startTLS = "ldap", true
	}
	if u.Scheme != "ldap" && u.Scheme != "ldaps" {
		return nil, fmt.Errorf("url: %q is none of ldap, ldaps, ldap+tls and ldapi", u.Scheme)
	}
	d.url = u.String()
	d.tls = &tls.Config{ServerName: u.Hostname()}
	if file := c.Get("ca_file"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		d.tls.RootCAs = x509.NewCertPool()
		if !d.tls.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", file)
		}
	}
	return d, nil
}

// get returns the connection, made anew when there is none.
func (d *dialer) get(ctx context.Context) (*ldap.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil && !d.conn.IsClosing() {
		return d.conn, nil
	}
	if err := d.guard.Away(); err != nil {
		return nil, err
	}
	conn, err := d.dial(ctx)
	if err == nil && d.username != "" {
		if err = conn.Bind(d.username, d.password); err != nil {
			conn.Close()
		}
	}
	d.guard.Tried(err)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	d.conn = conn
	return conn, nil
}

// dial makes a connection that nobody has bound.
func (d *dialer) dial(context.Context) (*ldap.Conn, error) {
	conn, err := ldap.DialURL(d.url, ldap.DialWithDialer(&net.Dialer{Timeout: connectTimeout}), ldap.DialWithTLSConfig(d.tls))
	if err != nil {
		return nil, err
	}
	conn.SetTimeout(d.timeout)
	if d.startTLS {
		late := time.AfterFunc(d.timeout, func() { conn.Close() }) // the handshake has no bound of its own
		err := conn.StartTLS(d.tls)
		late.Stop()
		if err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// failed drops a connection whose failure is not an answer of the server.
func (d *dialer) failed(conn *ldap.Conn, err error) {
	if e, ok := errors.AsType[*ldap.Error](err); ok && e.ResultCode < ldap.ErrorNetwork &&
		e.ResultCode != ldap.LDAPResultUnavailable && e.ResultCode != ldap.LDAPResultBusy {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == conn {
		d.conn = nil
		conn.Close()
	}
}

func (d *dialer) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return nil
	}
	return d.conn.Close()
}
