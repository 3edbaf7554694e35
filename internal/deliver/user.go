package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// identity is what a user lookup answers: whose rights, and the name to go by.
type identity struct {
	as    User
	login string
}

// known is an identity that was looked up, good until expires.
type known struct {
	identity
	expires time.Time
}

// maxKnown bounds the identities kept.
const maxKnown = 1024

// cached returns what is known of a line's user. The mutex is held.
func (d *Deliverer) cached(k lineKey) (identity, bool) {
	n, ok := d.infos[k]
	if !ok || !time.Now().Before(n.expires) {
		return identity{}, false
	}
	return n.identity, true
}

// remember keeps an answer for the lease. Only users that exist get here. The mutex
// is held.
func (d *Deliverer) remember(k lineKey, who identity) {
	now := time.Now()
	if len(d.infos) >= maxKnown {
		for k, n := range d.infos {
			if !now.Before(n.expires) {
				delete(d.infos, k)
			}
		}
		if len(d.infos) >= maxKnown {
			clear(d.infos)
		}
	}
	d.infos[k] = known{who, now.Add(d.limits.Lease)}
}

// lookUp finds out whose rights the deliveries of a line have. The result is zero
// when that is known.
func (d *Deliverer) lookUp(ctx context.Context, k lineKey) (who identity, r mda.Result, cause error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	if k.user == "" && k.runAs == "" {
		return who, permanent("Permanent failure in user lookup"), errors.New("neither a recipient nor the action names a user")
	}
	if k.user != "" {
		u, err := d.users.UserInfo(ctx, k.user, k.userbase)
		if err != nil {
			text, fail := "Temporary failure in user lookup", temporary
			if proven(err) {
				text, fail = "Permanent failure in user lookup", permanent
			}
			return who, fail(text), fmt.Errorf("user %q of table %q: %w", k.user, k.userbase, err)
		}
		who = identity{as: u, login: k.user}
	}
	if k.runAs != "" {
		u, err := d.users.UserInfo(ctx, k.runAs, "")
		switch {
		case err == nil:
		case proven(err):
			return who, permanent("delivery user '" + k.runAs + "' does not exist"), nil
		default:
			return who, temporary("Temporary failure in user lookup"), fmt.Errorf("delivery user %q: %w", k.runAs, err)
		}
		who.as = u
		if who.login == "" {
			who.login = u.Name
		}
	}
	return who, mda.Result{}, nil
}

// proven tells whether err says for certain that there is no such user.
func proven(err error) bool {
	if e, ok := errors.AsType[*smtp.Error](err); ok {
		return e.Permanent()
	}
	return errors.Is(err, ErrNoUser)
}
