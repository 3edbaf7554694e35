package parent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// Reload reads the configuration again and puts it in force. On any error the
// present one stays. Listening sockets that both have are kept; sessions that run
// finish under the configuration they began with.
func (p *Parent) Reload(ctx context.Context) error {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	next, err := p.Load()
	if err != nil {
		p.Log.Warnf("reload: configuration unchanged: %v", err)
		return err
	}
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	p.mu.Lock()
	fresh, err := p.bind(next)
	if err != nil {
		p.mu.Unlock()
		p.Log.Warnf("reload: configuration unchanged: %v", err)
		return err
	}
	maps.Copy(p.listeners, fresh)
	old := p.config
	p.keepKeys(old.Key.Keys)
	p.config = next
	p.generation++
	p.mu.Unlock()

	if err := p.configureAll(ctx, false); err != nil {
		p.mu.Lock()
		p.config = old
		p.generation++
		p.mu.Unlock()
		if back := p.configureAll(ctx, true); back != nil {
			p.Log.Critf("reload: cannot go back to the old configuration: %v", back)
		}
		p.dropListeners(old)
		p.Log.Warnf("reload: configuration unchanged: %v", err)
		return err
	}
	p.dropListeners(next)
	p.Log.Infof("configuration reloaded")
	return nil
}

// maxOldKeys bounds the keys kept for sessions of earlier configurations.
const maxOldKeys = 64

// keepKeys remembers keys that sessions may still be using. The mutex is held.
func (p *Parent) keepKeys(keys []proto.Named) {
	for _, k := range keys {
		p.oldKeys = slices.DeleteFunc(p.oldKeys, func(o proto.Named) bool { return o.Name == k.Name })
		p.oldKeys = append(p.oldKeys, k)
	}
	p.oldKeys = p.oldKeys[max(0, len(p.oldKeys)-maxOldKeys):]
}

// configureAll sends every role that is up its slice; the dispatcher last, when
// all it may ask for is in force. A role that is down gets its slice when it starts.
// It stops at the first error, or goes on when everybody is to be told.
func (p *Parent) configureAll(ctx context.Context, everybody bool) error {
	var errs []error
	for _, role := range order {
		conn := p.up(role)
		if role == proto.Control || conn == nil {
			continue
		}
		if err := p.configure(ctx, role, conn); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", role, err))
			if !everybody {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// dropListeners closes the sockets that c does not have.
func (p *Parent) dropListeners(c *Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := map[string]bool{}
	for _, l := range c.Listen {
		wanted[l.Address] = true
	}
	for a, l := range p.listeners {
		if !wanted[a] {
			l.Close()
			delete(p.listeners, a)
		}
	}
}
