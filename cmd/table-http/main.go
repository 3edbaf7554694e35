// Command table-http answers tables of smtpd from an HTTP server; see table-http(8).
// A question is a POST of a JSON object, the answer a JSON object:
//
//	> {"table": "users", "service": "alias", "key": "alice"}
//	< {"found": true, "value": "bob"}
//	< {"found": true, "values": ["bob", "carol"]}
//	< {"found": false}
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

func main() { remote.Main(open) }

// maxReply bounds an answer, in bytes.
const maxReply = 256 << 10

// web is the table.
type web struct {
	name     string // of the table
	url      string
	bearer   string
	user     string
	password string
	client   *http.Client
	guard    remote.Guard
	timeout  time.Duration
	services []table.Service
	fetches  map[table.Service]*remote.Rotation
}

// question is what is posted.
type question struct {
	Table   string        `json:"table"`
	Service table.Service `json:"service"`
	Key     string        `json:"key,omitempty"` // missing when the list of all is asked for
}

// answer is the server's. A value, or values, mean found.
type answer struct {
	Found  *bool    `json:"found"`
	Value  string   `json:"value"`
	Values []string `json:"values"`
}

func open(name string, c *remote.Conf) (remote.Source, error) {
	w := &web{
		name: name, url: c.Get("url"), bearer: c.Get("bearer"), user: c.Get("username"), password: c.Get("password"),
		timeout: c.Delay("timeout", 10*time.Second), fetches: map[table.Service]*remote.Rotation{},
	}
	u, err := url.Parse(w.url)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, errors.New("url is missing, or none of https or http")
	}
	if w.services, err = services(c.Get("services")); err != nil {
		return nil, err
	}
	roots, err := authorities(c.Get("ca_file"))
	if err != nil {
		return nil, err
	}
	n := c.Int("connections", 1, 8)
	w.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
			MaxConnsPerHost: n, MaxIdleConnsPerHost: n, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	expire := c.Delay("expire", time.Minute)
	for _, s := range []table.Service{table.Source, table.RelayHost} {
		if slices.Contains(w.services, s) {
			w.fetches[s] = &remote.Rotation{Expire: expire, Refresh: 1000, Load: func(ctx context.Context) ([]string, error) {
				a, err := w.ask(ctx, question{Table: name, Service: s})
				if errors.Is(err, table.ErrNotFound) {
					return nil, nil
				}
				return a, err
			}}
		}
	}
	return w, c.Err()
}

// services reads the list of services that the server knows.
func services(list string) ([]table.Service, error) {
	var out []table.Service
	for word := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if s := table.Service(word); slices.Contains(remote.Services(), s) {
			out = append(out, s)
		} else {
			return nil, fmt.Errorf("services: %q does not exist", word)
		}
	}
	return out, nil
}

func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// Services implements remote.Source.
func (w *web) Services() []table.Service { return w.services }

// Lookup implements table.Table.
func (w *web) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	values, err := w.ask(ctx, question{Table: w.name, Service: s, Key: key})
	if err != nil {
		return "", err
	}
	if len(values) == 0 { // found, without a value
		return key, nil
	}
	rows := make([][]string, len(values))
	for i, v := range values {
		rows[i] = []string{v}
	}
	return remote.Value(s, rows)
}

// Fetch implements table.Table.
func (w *web) Fetch(ctx context.Context, s table.Service) (string, error) {
	r := w.fetches[s]
	if r == nil {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	return r.Next(ctx)
}

// ask posts a question and returns the values of the answer, which may be none.
func (w *web) ask(ctx context.Context, q question) ([]string, error) {
	if err := w.guard.Away(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	switch {
	case w.bearer != "":
		req.Header.Set("Authorization", "Bearer "+w.bearer)
	case w.user != "":
		req.SetBasicAuth(w.user, w.password)
	}
	var connected atomic.Bool // a server that is slow to answer is not away
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}))
	res, err := w.client.Do(req)
	if connected.Load() {
		w.guard.Tried(nil)
	} else {
		w.guard.Tried(err)
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode == http.StatusNotFound:
		return nil, table.ErrNotFound
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the server answers %.80s", res.Status)
	case len(text) > maxReply:
		return nil, fmt.Errorf("the server answers more than %d bytes", maxReply)
	}
	return parse(text)
}

// parse reads an answer.
func parse(text []byte) ([]string, error) {
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, fmt.Errorf("the answer is not understood: %w", err)
	}
	if a.Value != "" {
		a.Values = append([]string{a.Value}, a.Values...)
	}
	switch {
	case a.Found == nil && a.Values == nil:
		return nil, errors.New(`the answer says neither "found" nor a value`)
	case a.Found != nil && !*a.Found:
		return nil, table.ErrNotFound
	}
	return a.Values, nil
}

// Update implements table.Table.
func (w *web) Update(context.Context) error { return nil }

// Close implements table.Table.
func (w *web) Close() error {
	w.client.CloseIdleConnections()
	return nil
}
