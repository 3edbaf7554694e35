package relay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/maillog"
)

// List returns what is going on as lines for the operator: what is relays, routes,
// hosts, hoststats or paused. As JSON each line is an object; otherwise they are
//
//	RELAY refcount=N ntask=N nconn=N lastconn=AGO timeout=T envelopes=N idle=N window=N hold=yes|no
//	  connector SOURCE nconn=N lastconn=AGO
//	ID. SOURCE <-> ADDRESS (NAME) FLAGS nconn=N nerror=N penalty=N timeout=T
//	ADDRESS NAME refcount=N nconn=N lastconn=AGO
//	DOMAIN|EPOCH|LAST STATUS
//	SOURCE -> DOMAIN
//
// FLAGS are N for a route that has not been ready yet, D for one that is disabled, Q
// for one whose next connection or message waits for its time, K for one with a
// connection that is kept open; "-" in their places else. Times that are not there
// are "-". What keeps a relay from more connections, and its last failure, follow as
// wait="..." and error="...". "*" stands for all sources or domains.
func (e *Relayer) List(what string, asJSON bool) ([]string, error) {
	now := time.Now()
	switch what {
	case "relays":
		return lines(e.Relays(), asJSON, func(i *RelayInfo) []string { return i.lines(now) })
	case "routes":
		return lines(e.Routes(), asJSON, func(i *RouteInfo) []string { return []string{i.line(now)} })
	case "hosts":
		return lines(e.Hosts(), asJSON, func(i *HostInfo) []string { return []string{i.line(now)} })
	case "hoststats":
		return lines(e.HostStats(), asJSON, func(i *HostStat) []string {
			return []string{i.Domain + "|" + strconv.FormatInt(i.Time.Unix(), 10) + "|" + i.Status}
		})
	case "paused":
		return lines(e.Paused(), asJSON, func(b *Block) []string { return []string{b.String()} })
	}
	return nil, fmt.Errorf("no such list: %q", what)
}

// lines writes each entry in one of the two forms.
func lines[T any](entries []T, asJSON bool, text func(*T) []string) ([]string, error) {
	out := make([]string, 0, len(entries))
	for i := range entries {
		if !asJSON {
			out = append(out, text(&entries[i])...)
			continue
		}
		var b strings.Builder
		js := json.NewEncoder(&b)
		js.SetEscapeHTML(false)
		if err := js.Encode(&entries[i]); err != nil {
			return nil, err
		}
		out = append(out, strings.TrimSuffix(b.String(), "\n"))
	}
	return out, nil
}

func (i *RelayInfo) lines(now time.Time) []string {
	hold := "no"
	if i.Held {
		hold = "yes"
	}
	line := fmt.Sprintf("%s refcount=%d ntask=%d nconn=%d lastconn=%s timeout=%s envelopes=%d idle=%d window=%d hold=%s",
		i.Name, i.Messages+i.Sessions, i.Messages, i.Sessions, ago(i.LastConn, now), until(i.Next, now), i.Envelopes, i.Idle, i.Window, hold)
	if i.Why != "" {
		line += fmt.Sprintf(" wait=%q", i.Why)
	}
	if i.LastError != "" {
		line += fmt.Sprintf(" error=%q", i.LastError)
	}
	out := []string{line}
	for _, c := range i.Connectors {
		out = append(out, fmt.Sprintf("  connector %s nconn=%d lastconn=%s", sourceName(c.Source), c.Sessions, ago(c.LastConn, now)))
	}
	return out
}

func (i *RouteInfo) line(now time.Time) string {
	flags := []byte("----")
	for n, set := range []bool{i.New, i.Disabled || i.DisabledFor > 0, !i.Next.IsZero(), i.Idle > 0} {
		if set {
			flags[n] = "NDQK"[n]
		}
	}
	next := i.Until
	if next.IsZero() {
		next = i.Next
	}
	line := fmt.Sprintf("%d. %s <-> %s %s nconn=%d nerror=%d penalty=%d timeout=%s",
		i.ID, sourceName(i.Source), hostText(i.Addr.Addr(), i.Host), flags, i.Sessions, i.Errors, i.Penalty, until(next, now))
	if port := i.Addr.Port(); port != 25 {
		line += fmt.Sprintf(" port=%d", port)
	}
	if i.Spacing > 0 {
		line += fmt.Sprintf(" spacing=%.1fs", i.Spacing)
	}
	if i.LastError != "" {
		line += fmt.Sprintf(" error=%q", i.LastError)
	}
	return line
}

func (i *HostInfo) line(now time.Time) string {
	return fmt.Sprintf("%s %s refcount=%d nconn=%d lastconn=%s", i.Addr, i.Name, i.Refs, i.Sessions, ago(i.LastConn, now))
}

// String returns "source -> domain", "*" for all.
func (b *Block) String() string {
	source, domain := "*", "*"
	if b.Source.IsValid() {
		source = b.Source.String()
	}
	if b.Domain != "" {
		domain = b.Domain
	}
	return source + " -> " + domain
}

// ago returns how long ago t was, "-" when it never was.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return string(maillog.AppendDuration(nil, now.Sub(t)))
}

// until returns the time to t in whole seconds, rounded up, "-" when there is none.
func until(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return string(maillog.AppendDuration(nil, max(0, t.Sub(now)+time.Second-1)))
}

// sourceName returns the text of a source, "-" for the system's choice.
func sourceName(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
