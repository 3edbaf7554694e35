package main

import (
	"slices"
	"strings"

	"github.com/emersion/go-msgauth/authres"
	"github.com/emersion/go-msgauth/dmarc"

	"github.com/opensmtpd/opensmtpd/cmd/filter-auth/internal/spf"
)

// sealedBy returns the trusted sealer that found that the message is from its authors;
// "" when there is none. Those who forwarded the message behind it must be trusted, too:
// each could have changed it.
func (c *checker) sealedBy(f *findings) string {
	for _, set := range slices.Backward(f.arc.sets) {
		sealer := set.sealer()
		if !slices.Contains(c.sealers, sealer) {
			return ""
		}
		if !slices.ContainsFunc(f.rulings, func(r ruling) bool { return r.value == authres.ResultFail && !vouches(fieldValue(set.results), r) }) {
			return sealer
		}
	}
	return ""
}

// sealer returns the domain of a seal that is valid.
func (s arcSet) sealer() string {
	tags, _ := parseTags(fieldValue(s.seal)) // it was read before
	return strings.ToLower(tags["d"])
}

// vouches tells whether the value of an ARC-Authentication-Results field says that a
// message is from a domain: by DMARC, or by SPF or a signature that is aligned (RFC 8617
// section 4.1.1, RFC 8601 section 2.2).
func vouches(value string, r ruling) bool {
	_, results, _ := strings.Cut(value, ";") // behind the instance
	results, ok := flat(results)
	if !ok {
		return false
	}
	_, results, _ = strings.Cut(results, ";") // behind the name of the server
	for result := range strings.SplitSeq(results, ";") {
		words := strings.Fields(strings.ToLower(result))
		if len(words) == 0 {
			continue
		}
		properties := map[string]string{}
		for _, w := range words[1:] {
			if key, v, ok := strings.Cut(w, "="); ok {
				properties[key] = v
			}
		}
		method, value, _ := strings.Cut(words[0], "=")
		method, _, _ = strings.Cut(method, "/") // version
		if value == "pass" && r.speaksFor(method, properties) {
			return true
		}
	}
	return false
}

// speaksFor tells whether a method that passed is about the author's domain.
func (r ruling) speaksFor(method string, properties map[string]string) bool {
	domain := func(key string) string {
		v := properties[key]
		return spf.ToASCII(v[strings.LastIndexByte(v, '@')+1:])
	}
	switch method {
	case "dmarc":
		d := domain("header.from")
		return d == "" || aligned(d, r.domain, dmarc.AlignmentRelaxed)
	case "dkim":
		d := domain("header.d")
		if d == "" {
			d = domain("header.i")
		}
		return d != "" && aligned(d, r.domain, r.dkim)
	case "spf":
		d := domain("smtp.mailfrom")
		if d == "" {
			d = domain("smtp.helo")
		}
		return d != "" && aligned(d, r.domain, r.spf)
	}
	return false
}

// flat makes comments a space and strings in quotes words without special characters.
// It is not ok when one of these has no end.
func flat(s string) (text string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); {
		switch s[i] {
		case '(':
			n := commentLen(s[i:])
			if n == 0 {
				return "", false
			}
			b.WriteByte(' ')
			i += n
		case '"':
			quoted, rest, ok := unquote(s[i:])
			if !ok {
				return "", false
			}
			b.WriteString(clean(quoted))
			i = len(s) - len(rest)
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return b.String(), true
}
