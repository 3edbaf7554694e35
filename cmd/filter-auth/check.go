package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/authres"

	"github.com/opensmtpd/opensmtpd/cmd/filter-auth/internal/spf"
	"github.com/opensmtpd/opensmtpd/filter"
)

const (
	defaultPatience = 20 * time.Second
	// maxReason bounds what is said about a broken SPF record, in bytes.
	maxReason = 200
	// maxValue bounds a stranger's word in a field, in bytes: an address has no more
	// (RFC 5321 section 4.5.3.1).
	maxValue = 320
	// maxText bounds who is concerned by a refusal, in bytes: a line of a reply has 512
	// (RFC 5321 section 4.5.3.1.5).
	maxText = 460
)

// checker holds the options.
type checker struct {
	id       string // authserv-id
	rules    []rule
	sealers  []string // domains, lower case
	patience time.Duration
}

// rule says what to do about a result.
type rule struct{ method, result, action string }

// addRule reads METHOD=RESULT:ACTION.
func (c *checker) addRule(s string) error {
	test, action, ok := strings.Cut(s, ":")
	method, result, ok2 := strings.Cut(test, "=")
	if !ok || !ok2 {
		return errors.New("want METHOD=RESULT:ACTION, such as dmarc=fail:obey")
	}
	results := map[string]string{
		"spf": "none neutral pass fail softfail temperror permerror", "dkim": "none pass fail temperror permerror",
		"dmarc": "none pass fail temperror permerror", "arc": "none pass fail",
	}
	switch {
	case results[method] == "":
		return fmt.Errorf("method %q: want spf, dkim, dmarc or arc", method)
	case !word(results[method], result):
		return fmt.Errorf("result %q of %s: want one of %s", result, method, results[method])
	case !word("junk reject tempfail obey", action):
		return fmt.Errorf("action %q: want junk, reject, tempfail or, for DMARC, obey", action)
	case action == "obey" && method != "dmarc":
		return errors.New("obey is for DMARC: only there senders say what to do")
	}
	c.rules = append(c.rules, rule{method, result, action})
	return nil
}

func word(list, w string) bool { return w != "" && strings.Contains(" "+list+" ", " "+w+" ") }

func (c *checker) addSealer(s string) error {
	c.sealers = append(c.sealers, strings.ToLower(strings.TrimSuffix(s, ".")))
	return nil
}

// findings are the results for one message.
type findings struct {
	spf      spf.Answer
	signed   []signature
	dkim     authres.ResultValue // the best of signed
	arc      arcResult
	rulings  []ruling // of all authors
	dmarc    ruling   // the one of these that counts
	override string   // the sealer whose word counts for more than DMARC
}

// message checks a message of a stranger. Users of this server are let through: who
// they are is known.
func (c *checker) message(s *filter.Session, m *filter.Message) filter.Verdict {
	if s.Local || s.User != "" || !s.Source.IsValid() {
		return filter.Proceed()
	}
	ctx, cancel := context.WithTimeout(s.Context(), c.patience)
	defer cancel()
	id := c.id
	if id == "" {
		id = s.Daemon().Admd
	}
	if id == "" {
		id = s.Hostname
	}
	f := c.check(ctx, s, m)
	if err := dropForged(m, id); err != nil && !errors.Is(err, filter.ErrTooBig) {
		s.Logf("forged results: %v", err)
		return filter.Reject(451, "4.3.0", "Temporary failure of a filter")
	}
	m.Prepend(resultsField, f.report(id, s))
	s.Logf("spf=%s dkim=%s dmarc=%s arc=%s from=%s", f.spf.Result, f.dkim, f.dmarc.value, f.arc.value, f.dmarc.domain)
	return c.verdict(f)
}

// check runs all methods. None of those that ask servers of strangers can take all the
// time, so that it is known what the author's domain wants.
func (c *checker) check(ctx context.Context, s *filter.Session, m *filter.Message) findings {
	var f findings
	part, cancel := context.WithTimeout(ctx, c.patience/2)
	defer cancel()
	f.spf = spf.Check(part, s, spf.Query{
		IP: s.Source.Addr(), Helo: s.Identity, Sender: sender(s), Receiver: s.Hostname, Explain: slices.Contains(c.rules, rule{"spf", "fail", "reject"}),
	})
	if f.spf.Err != nil {
		s.Logf("SPF: %v", f.spf.Err)
	}
	within := func(ctx context.Context) lookup {
		return func(name string) ([]string, error) { return s.LookupTXT(ctx, name) }
	}
	f.dkim = authres.ResultNone
	fields, body, err := header(m)
	if err != nil {
		s.Logf("header: %v", err)
		f.arc = arcResult{value: authres.ResultFail, reason: err}
	} else {
		part, cancel := context.WithTimeout(ctx, c.patience/4)
		defer cancel()
		f.signed = checkDKIM(ctx, fields, body, within(part))
		part, cancel = context.WithTimeout(ctx, c.patience/8)
		defer cancel()
		f.arc = checkARC(part, fields, io.NewSectionReader(body, 0, body.Size()), within(part))
	}
	for _, v := range f.signed {
		f.dkim = better(f.dkim, v.value)
	}
	txt := within(ctx)
	f.checkDMARC(fields, txt)
	if f.dmarc.value == authres.ResultFail {
		f.override = c.sealedBy(&f)
	}
	return f
}

// report returns the value of the Authentication-Results field.
func (f *findings) report(id string, s *filter.Session) string {
	found := &authres.SPFResult{Value: authres.ResultValue(f.spf.Result), From: clean(sender(s)), Helo: clean(s.Identity)}
	if f.spf.Err != nil {
		found.Reason = phrase(f.spf.Err.Error())
	}
	results := []authres.Result{found}
	if len(f.signed) == 0 {
		results = append(results, &authres.DKIMResult{Value: authres.ResultNone})
	}
	for _, v := range f.signed {
		results = append(results, &authres.DKIMResult{Value: v.value, Domain: clean(v.domain), Identifier: clean(v.identifier)})
	}
	d := &authres.DMARCResult{Value: f.dmarc.value, From: clean(f.dmarc.domain)}
	if f.dmarc.value == authres.ResultFail {
		d.Reason = "p=" + string(f.dmarc.policy)
		if f.override != "" {
			d.Reason += ", but sealed by " + f.override
		}
	}
	results = append(results, d)
	if f.arc.value != authres.ResultNone {
		results = append(results, &authres.ARCResult{Value: f.arc.value, RemoteIP: s.Source.Addr().Unmap().String()})
	}
	return folded(authres.Format(id, results))
}

// folded puts each result on a line of its own. No value has a semicolon in it.
func folded(field string) string {
	lines := strings.Split(field, ";")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, ";\n\t")
}

func sender(s *filter.Session) string {
	if s.Tx == nil {
		return ""
	}
	return s.Tx.Sender
}

// clean keeps strangers' words from being more than one value, and short enough for a
// line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`;="()\`, r) {
			return '_'
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), maxValue)], "")
}

// phrase keeps strangers' words from being more than one text in quotes.
func phrase(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ' || r > '~' || r == '\\' || r == ';':
			return '_'
		}
		return r
	}, s)
	return s[:min(len(s), maxReason)]
}

// verdict finds the gravest action that the rules ask for.
func (c *checker) verdict(f findings) filter.Verdict {
	values := map[string]string{"spf": string(f.spf.Result), "dkim": string(f.dkim), "dmarc": string(f.dmarc.value), "arc": string(f.arc.value)}
	gravest, why := "", ""
	for _, r := range c.rules {
		if values[r.method] != r.result || r.method == "dmarc" && f.override != "" {
			continue
		}
		action := r.action
		if action == "obey" {
			action = f.dmarc.obey()
		}
		if gravity(action) > gravity(gravest) {
			gravest, why = action, r.method+"="+r.result
		}
	}
	switch gravest {
	case "reject":
		return filter.Reject(550, "5.7.1", "Message refused: "+why+explain(f, why))
	case "tempfail":
		return filter.Reject(451, "4.7.1", "Try again later: "+why)
	case "junk":
		return filter.Junk()
	}
	return filter.Proceed()
}

// explain returns who is concerned. A domain's own words are told as its own (RFC 7208
// section 6.2).
func explain(f findings, why string) string {
	if why == "spf=fail" {
		text := " for " + clean(f.spf.Domain)
		if f.spf.Explanation != "" {
			text += ", which explains: " + f.spf.Explanation
		}
		return text[:min(len(text), maxText)]
	}
	if f.dmarc.domain == "" {
		return ""
	}
	return " for " + clean(f.dmarc.domain)
}

func gravity(action string) int {
	return map[string]int{"junk": 1, "tempfail": 2, "reject": 3}[action]
}
