package finder

import (
	"errors"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/dns"
)

// errIDN says that a name in UTF-8 cannot be turned into one for the DNS.
var errIDN = errors.New("domain name has no form in ASCII")

// toASCII returns a name as the DNS knows it, in lower case: labels that are not
// ASCII become A-labels (RFC 5891 section 4.4). Composed characters are expected;
// which characters a registry admits is not its business.
func toASCII(name string) (string, error) {
	if len(name) > 255 || !utf8.ValidString(name) {
		return "", errIDN
	}
	labels := strings.Split(strings.ToLower(name), ".")
	for i, label := range labels {
		if strings.IndexFunc(label, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
			continue
		}
		if strings.IndexFunc(label, func(r rune) bool { return r >= utf8.RuneSelf && !unicode.In(r, unicode.L, unicode.M, unicode.N) }) >= 0 {
			return "", errIDN
		}
		a, ok := punycode(label)
		if !ok {
			return "", errIDN
		}
		labels[i] = "xn--" + a
	}
	name = strings.Join(labels, ".")
	if !dns.ValidName(name) {
		return "", errIDN
	}
	return name, nil
}

// Parameters of RFC 3492 section 5.
const (
	base        = 36
	tMin        = 1
	tMax        = 26
	skew        = 38
	damp        = 700
	initialBias = 72
	initialN    = 0x80
)

// punycode encodes a label by RFC 3492 section 6.3. ok is false for one that is too
// long.
func punycode(label string) (out string, ok bool) {
	runes := []rune(label)
	var b strings.Builder
	for _, r := range runes {
		if r < utf8.RuneSelf {
			b.WriteByte(byte(r))
		}
	}
	basic := b.Len()
	if basic > 0 {
		b.WriteByte('-')
	}
	n, delta, bias := rune(initialN), 0, initialBias
	for done := basic; done < len(runes); {
		next := rune(math.MaxInt32)
		for _, r := range runes {
			if r >= n && r < next {
				next = r
			}
		}
		delta += int(next-n) * (done + 1)
		n = next
		for _, r := range runes {
			if r < n {
				delta++
			}
			if r != n {
				continue
			}
			appendDelta(&b, delta, bias)
			bias = adapt(delta, done+1, done == basic)
			delta = 0
			done++
		}
		delta++
		n++
	}
	return b.String(), b.Len() <= 63-len("xn--")
}

// appendDelta writes a number in the variable length digits of section 3.3.
func appendDelta(b *strings.Builder, q, bias int) {
	const digits = "abcdefghijklmnopqrstuvwxyz0123456789"
	for k := base; ; k += base {
		t := min(max(k-bias, tMin), tMax)
		if q < t {
			b.WriteByte(digits[q])
			return
		}
		b.WriteByte(digits[t+(q-t)%(base-t)])
		q = (q - t) / (base - t)
	}
}

// adapt is the bias adaptation of section 6.1.
func adapt(delta, points int, first bool) int {
	if first {
		delta /= damp
	} else {
		delta /= 2
	}
	delta += delta / points
	k := 0
	for ; delta > (base-tMin)*tMax/2; k += base {
		delta /= base - tMin
	}
	return k + (base-tMin+1)*delta/(delta+skew)
}
