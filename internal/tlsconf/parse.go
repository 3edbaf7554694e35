package tlsconf

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bits of protocol versions, in rising order.
const (
	v10 = 1 << iota
	v11
	v12
	v13
	vAll = v10 | v11 | v12 | v13
)

// ParseProtocols reads a list of protocols as libtls takes it: names separated by
// commas or colons, in any case, "!" before one takes it away: all, legacy, secure,
// default, tlsv1, tlsv1.0 to tlsv1.3. A list that begins by taking away starts from
// all. TLS 1.0 and 1.1 may be named but are not spoken (RFC 8996); a list that
// leaves nothing else is an error. It returns the least and the highest version.
func ParseProtocols(list string) (least, highest uint16, err error) {
	set, first := 0, true
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(",: \t", r) }) {
		name, away := strings.CutPrefix(strings.ToLower(word), "!")
		bits, ok := protocolBits(name)
		if !ok {
			return 0, 0, fmt.Errorf("protocols %q: unknown protocol %q", list, word)
		}
		switch {
		case away && first:
			set = vAll &^ bits
		case away:
			set &^= bits
		default:
			set |= bits
		}
		first = false
	}
	switch set & (v12 | v13) {
	case v12 | v13:
		return tls.VersionTLS12, tls.VersionTLS13, nil
	case v12:
		return tls.VersionTLS12, tls.VersionTLS12, nil
	case v13:
		return tls.VersionTLS13, tls.VersionTLS13, nil
	}
	return 0, 0, fmt.Errorf("protocols %q: neither TLS 1.2 nor 1.3 is left", list)
}

// protocolBits returns the versions a name stands for.
func protocolBits(name string) (int, bool) {
	switch name {
	case "all", "legacy", "tlsv1":
		return vAll, true
	case "secure", "default":
		return v12 | v13, true
	case "tlsv1.0":
		return v10, true
	case "tlsv1.1":
		return v11, true
	case "tlsv1.2":
		return v12, true
	case "tlsv1.3":
		return v13, true
	}
	return 0, false
}

// suite is a cipher suite of TLS 1.2 with the words that OpenSSL's ciphers(1) knows
// it by.
type suite struct {
	id       uint16
	openssl  string
	words    string // separated by spaces
	explicit bool   // taken only when named itself: weaker than the rest
}

// suites are those that crypto/tls can speak, but for the broken ones.
func suites() []suite {
	const (
		ecdsa = "ECDHE kECDHE EECDH kEECDH ECDSA aECDSA TLSv1.2 "
		rsa   = "ECDHE kECDHE EECDH kEECDH aRSA RSA TLSv1.2 "
		gcm   = "AEAD AESGCM AES "
	)
	return []suite{
		{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", ecdsa + gcm + "AES256 SHA384 HIGH", false},
		{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384", rsa + gcm + "AES256 SHA384 HIGH", false},
		{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", ecdsa + "AEAD CHACHA20 SHA256 HIGH", false},
		{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305", rsa + "AEAD CHACHA20 SHA256 HIGH", false},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", ecdsa + gcm + "AES128 SHA256 HIGH", false},
		{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256", rsa + gcm + "AES128 SHA256 HIGH", false},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, "ECDHE-ECDSA-AES256-SHA", ecdsa + "AES AES256 SHA SHA1 HIGH", false},
		{tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, "ECDHE-RSA-AES256-SHA", rsa + "AES AES256 SHA SHA1 HIGH", false},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, "ECDHE-ECDSA-AES128-SHA", ecdsa + "AES AES128 SHA SHA1 HIGH", false},
		{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, "ECDHE-RSA-AES128-SHA", rsa + "AES AES128 SHA SHA1 HIGH", false},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, "ECDHE-ECDSA-AES128-SHA256", ecdsa + "AES AES128 SHA256", true},
		{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, "ECDHE-RSA-AES128-SHA256", rsa + "AES AES128 SHA256", true},
		{tls.TLS_RSA_WITH_AES_256_GCM_SHA384, "AES256-GCM-SHA384", "kRSA RSA aRSA AEAD AESGCM AES AES256 SHA384", true},
		{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, "AES128-GCM-SHA256", "kRSA RSA aRSA AEAD AESGCM AES AES128 SHA256", true},
		{tls.TLS_RSA_WITH_AES_128_CBC_SHA256, "AES128-SHA256", "kRSA RSA aRSA AES AES128 SHA256", true},
		{tls.TLS_RSA_WITH_AES_256_CBC_SHA, "AES256-SHA", "kRSA RSA aRSA AES AES256 SHA SHA1", true},
		{tls.TLS_RSA_WITH_AES_128_CBC_SHA, "AES128-SHA", "kRSA RSA aRSA AES AES128 SHA SHA1", true},
	}
}

// Words of ciphers(1) that stand for suites we never speak, or for none.
const idle = " ANULL ENULL NULL COMPLEMENTOFALL COMPLEMENTOFDEFAULT LOW MEDIUM EXP EXPORT EXPORT40 EXPORT56 MD5 RC2 RC4 DES 3DES " +
	"IDEA SEED CAMELLIA CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 ARIAGCM GOST GOST89MAC GOST94 ADH AECDH DH DHE EDH KDH KDHE KEDH " +
	"KDHR KDHD ECDH KECDH KECDHE KECDHR AECDH ADSS DSS ADH PSK KPSK KDHEPSK KECDHEPSK KRSAPSK APSK SRP KSRP ASRP KGOST AGOST AESCCM " +
	"AESCCM8 SSLV2 SSLV3 TLSV1 TLSV1.0 KRB5 FZA STREEBOG256 "

// foreignName tells whether name, in upper case, is built like the OpenSSL name of
// a suite that we never speak.
func foreignName(name string) bool {
	for _, prefix := range []string{"DHE-", "EDH-", "ADH-", "AECDH-", "ECDH-", "DH-", "PSK-", "SRP-", "RSA-PSK-", "ECDHE-PSK-",
		"DHE-PSK-", "DES-", "RC4-", "RC2-", "EXP-", "NULL-", "IDEA-", "SEED-", "GOST", "KRB5-", "CAMELLIA", "ARIA"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	for _, part := range []string{"-CAMELLIA", "-ARIA", "-CCM", "-DES-", "-RC4-", "-NULL-", "-AES256-SHA384", "-PSK-"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "AES256-SHA256"
}

// tls13 tells whether name, in upper case, is a suite of TLS 1.3, where the library
// leaves no choice.
func tls13(name string) bool {
	switch name {
	case "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
		"AEAD-AES128-GCM-SHA256", "AEAD-AES256-GCM-SHA384", "AEAD-CHACHA20-POLY1305-SHA256", "TLSV1.3":
		return true
	}
	return false
}

// ParseCiphers reads a list of cipher suites as OpenSSL and libtls take it: names in
// the spelling of either OpenSSL or IANA and the words of ciphers(1), joined by "+"
// where all must hold, separated by colons, commas or spaces; "!" and "-" before one
// take away, "+" before one and "@STRENGTH" only sort, which the library does
// itself. secure, default, compat, legacy and all are the suites that are safe;
// insecure ones are taken only when named themselves. Suites of TLS 1.3 may be named
// to no effect; a list of nothing else gives an empty result.
func ParseCiphers(list string) ([]uint16, error) {
	known := suites()
	var chosen, killed []uint16
	only13 := false
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(":, \t;", r) }) {
		op, rest := byte(0), word
		if strings.IndexByte("!-+", word[0]) >= 0 {
			op, rest = word[0], word[1:]
		}
		upper := strings.ToUpper(rest)
		if strings.HasPrefix(upper, "@STRENGTH") || strings.HasPrefix(upper, "@SECLEVEL=") {
			continue
		}
		if tls13(upper) {
			only13 = only13 || op == 0
			continue
		}
		ids, ok := match(known, upper, op != 0)
		if !ok {
			return nil, fmt.Errorf("ciphers %q: unknown cipher %q", list, word)
		}
		in := func(id uint16) bool { return slices.Contains(ids, id) }
		switch op {
		case '!':
			killed = append(killed, ids...)
			chosen = slices.DeleteFunc(chosen, in)
		case '-':
			chosen = slices.DeleteFunc(chosen, in)
		case 0:
			for _, id := range ids {
				if !slices.Contains(chosen, id) && !slices.Contains(killed, id) {
					chosen = append(chosen, id)
				}
			}
		}
	}
	if len(chosen) == 0 && !only13 {
		return nil, errors.New("ciphers " + strings.TrimSpace(fmt.Sprintf("%q", list)) + ": no suite is left that can be spoken")
	}
	return chosen, nil
}

// match returns the suites that a name or a "+" of words stands for; ok is false
// when a word means nothing. A list that takes suites away takes all it matches.
func match(known []suite, word string, away bool) (ids []uint16, ok bool) {
	for _, s := range known {
		if word == s.openssl || word == tls.CipherSuiteName(s.id) {
			return []uint16{s.id}, true
		}
	}
	if foreignName(word) {
		return nil, true
	}
	parts := strings.Split(word, "+")
	for _, part := range parts {
		if !meaningful(known, part) {
			return nil, false
		}
	}
	for _, s := range known {
		if s.explicit && !away {
			continue
		}
		if !slices.ContainsFunc(parts, func(part string) bool { return !hasWord(s, part) }) {
			ids = append(ids, s.id)
		}
	}
	return ids, true
}

// meaningful tells whether a word is one of ciphers(1).
func meaningful(known []suite, word string) bool {
	return strings.Contains(idle, " "+word+" ") || slices.ContainsFunc(known, func(s suite) bool { return hasWord(s, word) })
}

// hasWord tells whether word, in upper case, is one that stands for s.
func hasWord(s suite, word string) bool {
	switch word {
	case "ALL", "DEFAULT", "SECURE", "COMPAT", "LEGACY", "INSECURE":
		return true
	}
	for w := range strings.FieldsSeq(s.words) {
		if strings.ToUpper(w) == word {
			return true
		}
	}
	return false
}
