package mtasts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// Fetcher gets the text of a domain's policy.
type Fetcher interface {
	Fetch(ctx context.Context, domain string) ([]byte, error)
}

// fetchTimeout bounds one fetch. RFC 8461 section 3.3 suggests one minute.
const fetchTimeout = 60 * time.Second

// Addrs looks addresses up; *dns.Resolver does.
type Addrs interface {
	Addrs(ctx context.Context, host string) (*dns.Answer, error)
}

// web fetches by HTTPS.
type web struct{ client *http.Client }

// Web says how policies are fetched by HTTPS.
type Web struct {
	Names Addrs          // required
	Roots *x509.CertPool // authorities whose certificates are good; nil: those of the system
	Port  uint16         // of policy servers; 443
	// Loopback lets policy servers be on this machine. Otherwise none on it or its
	// link is connected to, because it is the domain that says where its server is.
	Loopback bool
}

// NewFetcher returns the Fetcher that asks the policy servers.
func NewFetcher(w Web) Fetcher {
	if w.Port == 0 {
		w.Port = 443
	}
	return &web{client: &http.Client{
		Timeout: fetchTimeout,
		// RFC 8461 section 3.3: no redirect is followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            w.dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.Roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}}
}

// dial tries the addresses of a policy server one after another.
func (w Web) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	a, err := w.Names.Addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s has no address to connect to", host)
	d := net.Dialer{Timeout: fetchTimeout / 4}
	for _, ip := range a.Addrs[:min(len(a.Addrs), 8)] {
		if !reachable(ip) && !w.Loopback {
			continue
		}
		var c net.Conn
		if c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, w.Port).String()); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// reachable tells whether ip can be a server of somebody else.
func reachable(ip netip.Addr) bool {
	ip = ip.Unmap()
	return !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast()
}

// Fetch implements Fetcher.
func (w *web) Fetch(ctx context.Context, domain string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "OpenSMTPD")
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("policy server answers %d", resp.StatusCode)
	}
	// Where users can put files on a server it may be that they cannot make it call
	// them plain text (RFC 8461 section 3.2).
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return nil, fmt.Errorf("policy server sends no text/plain")
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxText+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("policy is longer than %d bytes", maxText)
	}
	return text, nil
}

// Result returns what an error of Policies is called in reports (RFC 8460 section
// 4.3.2.2).
func Result(err error) tlsrpt.Result {
	if errors.Is(err, ErrInvalid) {
		return tlsrpt.STSPolicyInvalid
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return tlsrpt.STSWebPKIInvalid
	}
	return tlsrpt.STSPolicyFetchError
}
