package main

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/emersion/go-msgauth/authres"
	"github.com/emersion/go-msgauth/dmarc"
	"golang.org/x/net/publicsuffix"
)

// ruling is what DMARC says of an author's domain. Without a record, the policy is none.
type ruling struct {
	domain  string
	value   authres.ResultValue
	policy  dmarc.Policy
	percent int                 // of messages that the policy is for
	spf     dmarc.AlignmentMode // how SPF may differ from the domain
	dkim    dmarc.AlignmentMode // how signatures may
}

// checkDMARC finds the ruling that counts: that of the one author or, of several, the
// strictest (RFC 7489 section 6.6.1).
func (f *findings) checkDMARC(fields []string, txt lookup) {
	var from []string
	for _, field := range fields {
		if fieldName(field) == "from" {
			from = append(from, fieldValue(field))
		}
	}
	domains := authorDomains(from)
	if len(domains) == 0 || len(domains) > maxAuthors {
		f.dmarc = ruling{value: authres.ResultPermError, policy: dmarc.PolicyNone}
		return
	}
	for _, d := range domains {
		f.rulings = append(f.rulings, f.rule(d, txt))
	}
	f.dmarc = slices.MaxFunc(f.rulings, ruling.compare)
}

// compare orders rulings, the strictest last. A stranger may add authors, so nothing
// weighs more than that a message fails.
func (r ruling) compare(o ruling) int {
	values := []authres.ResultValue{authres.ResultPass, authres.ResultNone, authres.ResultPermError, authres.ResultTempError, authres.ResultFail}
	policies := []dmarc.Policy{dmarc.PolicyNone, dmarc.PolicyQuarantine, dmarc.PolicyReject}
	return cmp.Or(
		cmp.Compare(slices.Index(values, r.value), slices.Index(values, o.value)),
		cmp.Compare(slices.Index(policies, r.policy), slices.Index(policies, o.policy)),
		cmp.Compare(r.percent, o.percent),
	)
}

// rule looks for the policy of an author's domain, and whether SPF or a signature speaks
// for that domain (RFC 7489 section 6.6).
func (f *findings) rule(author string, txt lookup) ruling {
	r := ruling{domain: author, value: authres.ResultNone, policy: dmarc.PolicyNone, percent: 100}
	o := &dmarc.LookupOptions{LookupTXT: txt}
	record, err := dmarc.LookupWithOptions(author, o)
	inherited := false
	if org := orgDomain(author); errors.Is(err, dmarc.ErrNoPolicy) && org != author {
		record, err = dmarc.LookupWithOptions(org, o)
		inherited = true
	}
	switch {
	case errors.Is(err, dmarc.ErrNoPolicy):
		return r
	case err != nil && dmarc.IsTempFail(err):
		r.value = authres.ResultTempError
		return r
	case err != nil:
		r.value = authres.ResultPermError
		return r
	}
	r.policy, r.spf, r.dkim = record.Policy, record.SPFAlignment, record.DKIMAlignment
	if inherited && record.SubdomainPolicy != "" {
		r.policy = record.SubdomainPolicy
	}
	if record.Percent != nil {
		r.percent = *record.Percent
	}
	r.value = authres.ResultFail
	see := func(v authres.ResultValue) {
		// What could not be looked up may speak for the domain another time.
		if v == authres.ResultPass || v == authres.ResultTempError && r.value == authres.ResultFail {
			r.value = v
		}
	}
	if aligned(f.spf.Domain, author, r.spf) {
		see(authres.ResultValue(f.spf.Result))
	}
	for _, v := range f.signed {
		if aligned(strings.ToLower(v.domain), author, r.dkim) {
			see(v.value)
		}
	}
	return r
}

// orgDomain returns the domain below the public suffix (RFC 7489 section 3.2).
func orgDomain(d string) string {
	if org, err := publicsuffix.EffectiveTLDPlusOne(d); err == nil {
		return org
	}
	return d
}

func aligned(d, author string, mode dmarc.AlignmentMode) bool {
	return d == author || mode != dmarc.AlignmentStrict && orgDomain(d) == orgDomain(author)
}

// obey returns what the author's domain asks for, which may be for a part of its
// messages only; the next milder action is for the rest (RFC 7489 section 6.6.4).
func (r ruling) obey() string {
	part := rand.IntN(100) < r.percent
	switch {
	case r.policy == dmarc.PolicyReject && part:
		return "reject"
	case r.policy == dmarc.PolicyReject, r.policy == dmarc.PolicyQuarantine && part:
		return "junk"
	}
	return ""
}
