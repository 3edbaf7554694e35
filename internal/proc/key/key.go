// Package key is the process that holds the private keys of certificates and signs
// with them. Nothing else can read them: a dispatcher that a stranger has taken
// over can use a key for as long as it lives, but not take it away.
package key

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// Key is the role.
type Key struct {
	p     *proc.Process
	store atomic.Pointer[tlsconf.KeyStore]
}

// New makes the role.
func New(p *proc.Process) *Key { return &Key{p: p} }

// Mux implements proc.Role.
func (k *Key) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	switch peer {
	case proto.Parent:
		proto.SetupKey.Handle(mux, proc.Handler(k.setup))
	case proto.Dispatcher:
		proto.Sign.Handle(mux, proc.Handler(k.sign))
	}
	return mux
}

// setup takes the keys in force; those of the configuration before are among them.
func (k *Key) setup(_ context.Context, c proto.KeyConfig) (proto.SetupReply, error) {
	reply, err := k.p.Confine(c.Confine)
	if err != nil {
		return reply, err
	}
	store := tlsconf.NewKeyStore()
	for _, n := range c.Keys {
		key, err := tlsconf.ParseKey(n.PEM)
		if err != nil {
			return reply, fmt.Errorf("key of %s: %w", n.Name, err)
		}
		store.Add(n.Name, key)
	}
	k.store.Store(store)
	return reply, nil
}

func (k *Key) sign(_ context.Context, req proto.SignRequest) (proto.SignReply, error) {
	sig, err := k.store.Load().Sign(tlsconf.SignRequest{Key: req.Key, Hash: req.Hash, PSS: req.PSS, Digest: req.Digest})
	return proto.SignReply{Signature: sig}, err
}

// Start implements proc.Role.
func (k *Key) Start(context.Context) error { return nil }

// Stop implements proc.Role.
func (k *Key) Stop(context.Context) {}
