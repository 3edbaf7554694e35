package dns

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxServers   = 8
	maxFile      = 8 << 20         // bytes of hosts(5) or resolv.conf(5) that are read
	recheck      = 5 * time.Second // how often a file is looked at for changes
	defaultDelay = 5 * time.Second // RES_TIMEOUT of resolver(3)
)

// conf is the content of resolv.conf(5).
type conf struct {
	servers  []string // host:port
	timeout  time.Duration
	attempts int
	trustAD  bool
}

// trusts tells whether the AD bit of a server's answers means something: it does
// when the server is this machine, or when "options trust-ad" says so.
func (c *conf) trusts(server string) bool {
	if c.trustAD {
		return true
	}
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// parseConf reads resolv.conf(5). Lines that mean nothing to us are skipped.
func parseConf(r io.Reader) (*conf, error) {
	c := &conf{timeout: defaultDelay, attempts: 2}
	err := eachFields(r, func(f []string) {
		switch {
		case f[0] == "nameserver" && len(f) > 1 && len(c.servers) < maxServers:
			if server, ok := nameserver(f[1]); ok {
				c.servers = append(c.servers, server)
			}
		case f[0] == "options":
			for _, o := range f[1:] {
				key, value, _ := strings.Cut(o, ":")
				n, err := strconv.Atoi(value)
				switch {
				case key == "trust-ad":
					c.trustAD = true
				case key == "timeout" && err == nil:
					c.timeout = time.Duration(min(max(n, 1), 30)) * time.Second
				case key == "attempts" && err == nil:
					c.attempts = min(max(n, 1), 5)
				}
			}
		}
	})
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53"} // resolv.conf(5)
	}
	return c, err
}

// nameserver turns an address, or as on OpenBSD [address]:port, into host:port.
func nameserver(s string) (string, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(addr.String(), "53"), true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", false
	}
	_, badHost := netip.ParseAddr(host)
	_, badPort := strconv.ParseUint(port, 10, 16)
	return s, badHost == nil && badPort == nil
}

// hosts is the content of hosts(5).
type hosts struct {
	addrs map[string][]netip.Addr // by name in lower case
	names map[netip.Addr]string   // the first name of an address
}

// parseHosts reads hosts(5): an address, its name and aliases.
func parseHosts(r io.Reader) (*hosts, error) {
	h := &hosts{addrs: make(map[string][]netip.Addr), names: make(map[netip.Addr]string)}
	err := eachFields(r, func(f []string) {
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			return
		}
		addr = addr.Unmap()
		for _, name := range f[1:] {
			if !ValidName(name) {
				continue
			}
			name = canonical(name)
			if _, ok := h.names[addr]; !ok {
				h.names[addr] = name
			}
			if len(h.addrs[name]) < maxRecords {
				h.addrs[name] = append(h.addrs[name], addr)
			}
		}
	})
	return h, err
}

// eachFields calls f with the fields of each line, without comments.
func eachFields(r io.Reader, f func([]string)) error {
	s := bufio.NewScanner(io.LimitReader(r, maxFile))
	for s.Scan() {
		line := s.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		if fields := strings.Fields(line); len(fields) > 0 {
			f(fields)
		}
	}
	return s.Err()
}

// watched is a file's content, read again when the file has changed. A file that
// is missing is taken for empty.
type watched[T any] struct {
	path  string
	parse func(io.Reader) (*T, error)

	mu      sync.Mutex
	value   *T        // guarded by mu
	checked time.Time // guarded by mu
	stamp   time.Time // guarded by mu; modification time of what was read
	size    int64     // guarded by mu
}

// get returns the content as of at most recheck ago. When the file cannot be read
// any more, it returns what was read last.
func (w *watched[T]) get(now time.Time) (*T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.value != nil && now.Sub(w.checked) < recheck && now.Sub(w.checked) >= 0 {
		return w.value, nil
	}
	v, err := w.read()
	if err != nil {
		if w.value == nil {
			return nil, err
		}
		v = w.value
	}
	w.value, w.checked = v, now
	return v, nil
}

// read returns the present content. The caller holds mu.
func (w *watched[T]) read() (*T, error) {
	f, err := os.Open(w.path)
	if w.path == "" || errors.Is(err, fs.ErrNotExist) {
		w.stamp, w.size = time.Time{}, -1
		return w.parse(strings.NewReader(""))
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if w.value != nil && fi.ModTime().Equal(w.stamp) && fi.Size() == w.size {
		return w.value, nil
	}
	v, err := w.parse(f)
	if err == nil {
		w.stamp, w.size = fi.ModTime(), fi.Size()
	}
	return v, err
}
