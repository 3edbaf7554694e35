package main

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc/parent"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
	"github.com/opensmtpd/opensmtpd/platform"
)

// identity is whom the processes run as; UIDs of -1 when there is no root to give up.
type identity struct {
	smtp, queue platform.User
	confine     bool
}

func (id identity) confinement(u platform.User, root string) proto.Confinement {
	if !id.confine {
		return proto.Confinement{Root: root, UID: -1, GID: -1}
	}
	return proto.Confinement{Root: root, UID: u.UID, GID: u.GID}
}

// cut cuts a configuration into what each process is told.
func cut(f *flags, c *config.Config, paths platform.Paths, id identity, key []byte) (*parent.Config, error) {
	verbose := proto.VerboseRequest{Debug: f.verbose, Trace: f.trace}
	out := &parent.Config{
		ServerName: c.ServerName,
		TableFiles: map[string]string{}, TablePrograms: map[string]parent.Program{},
		Delimiter: c.SMTP.SubAddrDelim,
		Actions:   map[string]*policy.Action{},
		Control: proto.ControlConfig{
			Confine: id.confinement(id.smtp, paths.Empty), ServerName: c.ServerName, Version: "OpenSMTPD " + version,
		},
		Key: proto.KeyConfig{Confine: id.confinement(id.smtp, paths.Empty)},
	}
	for _, a := range c.Actions {
		out.Actions[a.Name] = a
	}
	out.Lookup = lookupSlice(c, paths, id)
	for _, t := range c.Tables {
		if t.Path != "" {
			out.TableFiles[t.Name] = t.Path
		}
		if t.Program() {
			out.TablePrograms[t.Name] = tableProgram(t, paths)
		}
	}
	var err error
	if out.Queue, err = queueSlice(f, c, paths, id, key); err != nil {
		return nil, err
	}
	if err := dispatcherSlice(f, c, paths, id, out); err != nil {
		return nil, err
	}
	out.Dispatcher.Verbose, out.Lookup.Verbose, out.Queue.Verbose = verbose, verbose, verbose
	return out, nil
}

// tableProgram returns the program that answers a table: its first argument is the
// name of the table, the next one the path of its configuration.
func tableProgram(t *config.Table, paths platform.Paths) parent.Program {
	if t.Backend == config.CommandBackend {
		return parent.Program{Path: paths.Shell, Args: []string{"sh", "-c", "exec " + t.Command}}
	}
	p := parent.Program{Path: tableProgramPath(paths, t.Backend), Args: []string{t.Name}}
	if t.Path != "" {
		p.Args = append(p.Args, t.Path)
	}
	return p
}

func lookupSlice(c *config.Config, paths platform.Paths, id identity) proto.LookupConfig {
	// Lookup keeps the whole file system in view: tables, and the system's users.
	confine := id.confinement(id.smtp, "")
	l := proto.LookupConfig{
		Confine: confine, ServerName: c.ServerName, Rules: c.Rules, Actions: c.Actions,
		SubAddrDelim: c.SMTP.SubAddrDelim, QueueTTL: c.Queue.TTL,
		SRSKey: c.SRS.Key, SRSBackup: c.SRS.BackupKey, SRSTTLDays: c.SRS.TTLDays,
		TLSReport: proto.TLSReport(c.TLSReport),
	}
	l.RelayLimits = relayLimits(&c.MTA.Default)
	for i := range c.MTA.Domains {
		d := &c.MTA.Domains[i]
		l.DomainLimits = append(l.DomainLimits, proto.DomainLimits{Domain: d.Domain, Limits: relayLimits(&d.MTALimits)})
		l.DomainLimits[i].Limits.Domain = d.Domain
	}
	regex := map[string]bool{}
	for _, f := range c.Filters {
		if f.Builtin != nil && f.Builtin.Regex {
			regex[f.Builtin.Table] = true
		}
	}
	for _, r := range c.Rules {
		for _, cond := range r.Conditions {
			if cond.How == policy.RegexIn {
				regex[cond.Table] = true
			}
		}
	}
	for _, t := range c.Tables {
		pt := proto.Table{
			Delim: c.SMTP.SubAddrDelim, Regex: regex[t.Name], Name: t.Name, Backend: t.Backend, Path: t.Path, Kind: uint8(t.Kind),
			Program: t.Program(), TTL: t.TTL, File: t.Pos.File, Line: t.Pos.Line,
		}
		for _, e := range t.Entries {
			pt.Entries = append(pt.Entries, proto.Entry(e))
		}
		l.Tables = append(l.Tables, pt)
	}
	return l
}

func queueSlice(f *flags, c *config.Config, paths platform.Paths, id identity, key []byte) (proto.QueueConfig, error) {
	q := proto.QueueConfig{
		Confine: id.confinement(id.queue, paths.Spool), ServerName: c.ServerName,
		CommandUser: id.smtp.Name, TTL: c.Queue.TTL,
		RetryMDA: c.Queue.RetryMDA, RetryMTA: c.Queue.RetryMTA, WarnIntervals: c.Bounce.WarnIntervals,
		MaxBounces: c.Bounce.MaxPerMinute, Postmaster: c.Bounce.Postmaster,
		Compression: c.Queue.Compression, Key: key,
		MinFreeSpace: float64(c.Queue.ReserveSpace) / 100, MinFreeInodes: float64(c.Queue.ReserveInodes) / 100,
		MaxInflight: c.Scheduler.MaxInflight, MaxSession: c.MDA.MaxSession, MaxPerUser: c.MDA.MaxSessionPerUser,
		TaskHiwat: c.MDA.TaskHiwat, TaskLowat: c.MDA.TaskLowat, TaskRelease: c.MDA.TaskRelease,
	}
	for _, a := range c.Actions {
		q.Actions = append(q.Actions, proto.Action{
			Name: a.Name, Local: a.Local(), Mbox: a.Method == policy.Mbox && a.Wrapper == "", Shared: a.SharesWorker(), Userbase: a.Userbase, User: a.User, TTL: a.TTL,
		})
	}
	for _, p := range f.pause {
		switch p {
		case "mda":
			q.PauseMDA = true
		case "mta":
			q.PauseMTA = true
		}
	}
	return q, nil
}

// dispatcherSlice resolves listeners and loads certificates and keys. It fills in
// the keys' slice as well.
func dispatcherSlice(f *flags, c *config.Config, paths platform.Paths, id identity, out *parent.Config) error {
	d := &out.Dispatcher
	*d = proto.DispatcherConfig{
		Confine: id.confinement(id.smtp, paths.Empty), ServerName: c.ServerName, Ciphers: c.SMTP.Ciphers,
		MaxMails: c.SMTP.MaxMails, MaxRcpt: c.SMTP.MaxRcpt, MaxMessageSize: c.SMTP.MaxMessageSize,
		MaxSessions: c.SMTP.MaxSessions, MaxPerSource: c.SMTP.MaxSessionsPerSource, MaxErrors: c.SMTP.MaxErrors,
		MaxAuthFailures: c.SMTP.MaxAuthFailures, MinRate: c.SMTP.MinRate,
		NormalizeBare: c.SMTP.BareNewline == config.NormalizeBareNewline, MaxDeferred: c.MTA.MaxDeferred,
		Socket: proto.Listener{
			Local: true, Filter: c.Socket.Filter, MaskSource: c.Socket.MaskSource, NoDSN: c.Socket.NoDSN, Tag: c.Socket.Tag,
		},
	}
	d.Socket.Address = "unix:" + filepath.Join(paths.Run, parent.ControlSocket)
	filterSlice(c, out)
	for _, p := range f.pause {
		d.Paused = d.Paused || p == "smtp"
	}
	if d.MaxSessions == 0 {
		d.MaxSessions = defaultSessions()
	}
	var errs []error
	for _, p := range c.PKIs {
		if !pkiUsed(c, p.Name) {
			continue
		}
		chain, key, err := loadPKI(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: pki %s: %w", p.Pos.File, p.Pos.Line, p.Name, err))
			continue
		}
		// A renewed certificate has another key name than the one before, which sessions
		// may still be using.
		sum := sha256.Sum256(chain)
		name := fmt.Sprintf("%s@%x", p.Name, sum[:8])
		d.Certificates = append(d.Certificates, proto.Certificate{Name: p.Name, KeyName: name, PEM: chain})
		out.Key.Keys = append(out.Key.Keys, proto.Named{Name: name, PEM: key})
	}
	for _, a := range c.CAs {
		pem, err := tlsconf.ReadCA(a.Cert)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: ca %s: %w", a.Pos.File, a.Pos.Line, a.Name, err))
			continue
		}
		d.Authorities = append(d.Authorities, proto.Named{Name: a.Name, PEM: pem})
	}
	for _, l := range c.Listeners {
		addrs, err := resolveTarget(l.Target, l.Family)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: invalid virtual ip or interface: %s: %w", l.Pos.File, l.Pos.Line, l.Target, err))
			continue
		}
		for _, a := range addrs {
			o := listenerSlice(l)
			o.Local = a.IsLoopback()
			out.Listen = append(out.Listen, parent.Listen{Address: net.JoinHostPort(a.String(), strconv.Itoa(int(l.Port))), Options: o})
		}
	}
	return errors.Join(errs...)
}

func listenerSlice(l *config.Listener) proto.Listener {
	return proto.Listener{
		Port: l.Port, TLS: uint8(l.TLS), VerifyPeer: l.VerifyPeer, Ciphers: l.Ciphers, Protocols: l.Protocols,
		PKI: l.PKI, CA: l.CA, Auth: uint8(l.Auth), AuthTable: l.AuthTable, Tag: l.Tag,
		Hostname: l.Hostname, Hostnames: l.Hostnames, Filter: l.Filter, MaskSource: l.MaskSource,
		ReceivedAuth: l.ReceivedAuth, NoDSN: l.NoDSN, Proxy: l.Proxy != config.NoProxy, ProxyV2Only: l.Proxy == config.ProxyV2,
		ProxyFrom: l.ProxyFrom, Senders: l.Senders, Masquerade: l.Masquerade,
	}
}

// loadPKI reads a certificate and its key, and checks that they belong together.
// The key is returned in PEM for the key process.
func loadPKI(p *config.PKI) (chain, key []byte, err error) {
	if chain, err = tlsconf.ReadChain(p.Cert); err != nil {
		return nil, nil, err
	}
	private, err := tlsconf.ReadKey(p.Key)
	if err != nil {
		return nil, nil, err
	}
	signer, err := tlsconf.NewSigner(p.Name, chain, nil)
	if err != nil {
		return nil, nil, err
	}
	if public, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
		return nil, nil, fmt.Errorf("the key in %s is not that of the certificate in %s", p.Key, p.Cert)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// relayLimits turns limits of relaying into what is sent to the processes. What the
// operator has not changed is left to the relaying engine, which knows better.
func relayLimits(l *config.MTALimits) proto.RouteLimits {
	out := proto.RouteLimits{Family: l.Family}
	changed := l.Changed()
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		out.Names = append(out.Names, name)
		out.Values = append(out.Values, changed[name])
	}
	return out
}

// pkiUsed tells whether a listener or a relay presents the certificate.
func pkiUsed(c *config.Config, name string) bool {
	for _, a := range c.Actions {
		if a.Relay != nil && strings.EqualFold(a.Relay.PKI, name) {
			return true
		}
	}
	for _, l := range c.Listeners {
		for _, p := range l.PKI {
			if strings.EqualFold(p, name) {
				return true
			}
		}
	}
	return false
}

// warnings prints the doubts about a configuration.
func warnings(c *config.Config) {
	for _, w := range c.Warnings {
		fmt.Fprintf(os.Stderr, "warn: %v\n", w)
	}
}
