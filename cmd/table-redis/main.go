// Command table-redis answers tables of smtpd from a Redis server; see
// table-redis(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

func main() {
	redis.SetLogger(silent{})
	remote.Main(open)
}

// silent is a log for a client whose errors are returned as well.
type silent struct{}

// Printf implements the client's logger.
func (silent) Printf(context.Context, string, ...any) {}

// server is the table.
type server struct {
	clients  []*redis.Client // the master, then the slave
	guards   []remote.Guard
	timeout  time.Duration
	services []table.Service
	queries  map[table.Service][]string // words of a command
	fetches  map[table.Service]*remote.Rotation
}

func open(_ string, c *remote.Conf) (remote.Source, error) {
	s := &server{
		timeout: c.Delay("timeout", 10*time.Second),
		queries: map[table.Service][]string{}, fetches: map[table.Service]*remote.Rotation{},
	}
	options := redis.Options{
		Username: c.Get("username"), Password: c.Get("password"), DB: c.Int("database", 0, 0), PoolSize: c.Int("connections", 1, 8),
		DialTimeout: 5 * time.Second, DialerRetries: 1, MaxRetries: 1, ContextTimeoutEnabled: true,
	}
	for _, which := range []string{"master", "slave"} {
		host, port := c.Get(which), c.Int(which+"_port", 1, 6379)
		if host == "" && which == "slave" {
			continue
		}
		o := options
		o.Network, o.Addr = "tcp", net.JoinHostPort(host, fmt.Sprint(port))
		if path, ok := strings.CutPrefix(host, "unix:"); ok {
			o.Network, o.Addr = "unix", path
		} else if host == "" {
			o.Addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
		}
		s.clients = append(s.clients, redis.NewClient(&o))
	}
	s.guards = make([]remote.Guard, len(s.clients))
	for _, service := range remote.Services() {
		if words := strings.Fields(c.Get("query_" + string(service))); len(words) > 0 {
			s.queries[service] = words
			s.services = append(s.services, service)
		}
	}
	for _, service := range []table.Service{table.Source, table.RelayHost} {
		words := strings.Fields(c.Get("fetch_" + string(service)))
		expire := c.Delay("fetch_"+string(service)+"_expire", time.Minute)
		if len(words) == 0 {
			continue
		}
		s.fetches[service] = &remote.Rotation{Expire: expire, Refresh: 1000, Load: func(ctx context.Context) ([]string, error) { return s.list(ctx, words) }}
		if _, both := s.queries[service]; !both {
			s.services = append(s.services, service)
		}
	}
	slices.Sort(s.services)
	return s, c.Err()
}

// Services implements remote.Source.
func (s *server) Services() []table.Service { return s.services }

// Lookup implements table.Table.
func (s *server) Lookup(ctx context.Context, service table.Service, key string) (string, error) {
	words, ok := s.queries[service]
	if !ok {
		return "", fmt.Errorf("%w: %s", table.ErrUnsupported, service)
	}
	reply, err := s.do(ctx, words, key)
	if err != nil {
		return "", err
	}
	rows, err := rowsOf(service, reply)
	if err != nil {
		return "", fmt.Errorf("query_%s: %w", service, err)
	}
	return remote.Value(service, rows)
}

// Fetch implements table.Table.
func (s *server) Fetch(ctx context.Context, service table.Service) (string, error) {
	r := s.fetches[service]
	if r == nil {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, service)
	}
	return r.Next(ctx)
}

// list returns the elements of an array.
func (s *server) list(ctx context.Context, words []string) ([]string, error) {
	reply, err := s.do(ctx, words, "")
	if errors.Is(err, table.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return texts(reply)
}

// do sends a command, in which %s stands for the key, to the first server that
// answers. One that hangs leaves the others their share of the time.
func (s *server) do(ctx context.Context, words []string, key string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	args := make([]any, len(words))
	for i, w := range words {
		args[i] = strings.ReplaceAll(w, "%s", key)
	}
	var errs []error
	for i, client := range s.clients {
		err := s.guards[i].Away()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reply, err := s.ask(ctx, client, len(s.clients)-i, args)
		var refused redis.Error // an answer of the server
		switch {
		case errors.Is(err, redis.Nil):
			s.guards[i].Tried(nil)
			return nil, table.ErrNotFound
		case errors.As(err, &refused):
			s.guards[i].Tried(nil)
		default:
			s.guards[i].Tried(err)
		}
		if err == nil {
			return reply, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// ask sends a command to one server, which has its share of the time that is left for n.
func (s *server) ask(ctx context.Context, client *redis.Client, n int, args []any) (any, error) {
	deadline, _ := ctx.Deadline() // do has set one
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
	defer cancel()
	return client.Do(ctx, args...).Result()
}

// rowsOf makes rows of a reply: an array is one row for the services with several
// columns, else one row for each element. A number says whether the key is there.
func rowsOf(s table.Service, reply any) ([][]string, error) {
	if n, ok := reply.(int64); ok && remote.Columns(s) == 1 {
		if n == 0 {
			return nil, nil
		}
		return [][]string{{fmt.Sprint(n)}}, nil
	}
	list, err := texts(reply)
	if err != nil {
		return nil, err
	}
	if remote.Columns(s) > 1 {
		return [][]string{list}, nil
	}
	rows := make([][]string, len(list))
	for i, text := range list {
		rows[i] = []string{text}
	}
	return rows, nil
}

// texts returns the elements of a reply; one that is missing is "".
func texts(reply any) ([]string, error) {
	list, ok := reply.([]any)
	if !ok {
		list = []any{reply}
	}
	out := make([]string, len(list))
	for i, e := range list {
		switch v := e.(type) {
		case string:
			out[i] = v
		case int64:
			out[i] = fmt.Sprint(v)
		case nil:
		default:
			return nil, fmt.Errorf("a reply of the kind %T", e)
		}
	}
	return out, nil
}

// Update implements table.Table.
func (s *server) Update(context.Context) error { return nil }

// Close implements table.Table.
func (s *server) Close() error {
	var errs []error
	for _, c := range s.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
