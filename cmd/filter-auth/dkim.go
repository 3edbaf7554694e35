package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/emersion/go-msgauth/authres"
	"github.com/emersion/go-msgauth/dkim"
)

const (
	// maxSignatures bounds the DKIM signatures of a message that are looked at.
	maxSignatures = 10
	// maxNames bounds the fields that a signature covers. Each of these is looked for.
	maxNames = 256
)

// signature is what is known of a DKIM signature.
type signature struct {
	domain, identifier string // as they are in it
	value              authres.ResultValue
}

// lookup asks for the TXT records of a name.
type lookup func(name string) ([]string, error)

// checkDKIM verifies the first signatures of a message. Keys are asked for together, so
// that a slow server does not keep the keys of others away; the rest is done one after
// the other, and what is not reached before the context ends is temperror.
func checkDKIM(ctx context.Context, fields []string, body io.ReadSeeker, txt lookup) []signature {
	var found []string
	for _, f := range fields {
		if fieldName(f) == "dkim-signature" && len(found) < maxSignatures {
			found = append(found, f)
		}
	}
	var list []signature
	keys, index := fetchKeys(found, txt), newIndex(fields)
	for _, f := range found {
		list = append(list, verifyDKIM(ctx, f, index, body, keys))
	}
	return list
}

// verifyDKIM verifies one signature. The library is given what the signature covers
// alone: it looks at all fields for each name.
func verifyDKIM(ctx context.Context, field string, index fieldIndex, body io.ReadSeeker, keys lookup) signature {
	tags := looseTags(fieldValue(field))
	names := signedNames(tags["h"])
	s := signature{domain: tags["d"], value: authres.ResultPermError}
	if len(names) > maxNames {
		return s
	}
	s.value = authres.ResultTempError
	if _, err := body.Seek(0, io.SeekStart); err != nil || ctx.Err() != nil {
		return s
	}
	covered := index.covered(names)
	if i := slices.Index(covered, field); i >= 0 {
		covered = slices.Delete(covered, i, i+1)
	}
	slices.Reverse(covered) // it picks from the bottom
	head := field + strings.Join(covered, "") + "\r\n"
	// The first signature is this one: those that it covers come behind it.
	found, _ := dkim.VerifyWithOptions(io.MultiReader(strings.NewReader(head), reader{ctx, body}), &dkim.VerifyOptions{LookupTXT: keys, MaxVerifications: 1})
	if len(found) > 0 { // else the message could not be read
		s = signature{found[0].Domain, found[0].Identifier, dkimValue(found[0].Err)}
	}
	return s
}

func dkimValue(err error) authres.ResultValue {
	switch {
	case err == nil:
		return authres.ResultPass
	case dkim.IsTempFail(err):
		return authres.ResultTempError
	case dkim.IsPermFail(err):
		return authres.ResultPermError
	}
	return authres.ResultFail
}

// better returns the result that says more for a message with several signatures.
func better(a, b authres.ResultValue) authres.ResultValue {
	order := []authres.ResultValue{authres.ResultPass, authres.ResultTempError, authres.ResultFail, authres.ResultPermError}
	for _, v := range order {
		if a == v || b == v {
			return v
		}
	}
	return authres.ResultNone
}

// fetchKeys asks for the keys of signatures, all at the same time, and waits. It returns
// a lookup of what was found; a key that takes too long to verify with is an error.
func fetchKeys(signatures []string, txt lookup) lookup {
	type answer struct {
		records []string
		err     error
	}
	answers := map[string]*answer{}
	var wg sync.WaitGroup
	for _, f := range signatures {
		tags := looseTags(fieldValue(f))
		name := tags["s"] + "._domainkey." + tags["d"]
		if answers[name] != nil {
			continue
		}
		a := &answer{}
		answers[name] = a
		wg.Go(func() {
			a.records, a.err = txt(name)
			for _, r := range a.records {
				if n := keyBits(r); n > maxRSA {
					a.err = fmt.Errorf("a key of %d bits", n)
				}
			}
		})
	}
	wg.Wait()
	return func(name string) ([]string, error) {
		if a := answers[name]; a != nil {
			return a.records, a.err
		}
		return nil, fmt.Errorf("%q is not the name of a key", name)
	}
}

// keyBits returns the length of the RSA key in a record; 0 when there is none.
func keyBits(record string) int {
	der, err := base64.StdEncoding.DecodeString(looseTags(record)["p"])
	if err != nil {
		return 0
	}
	if k := parseRSA(der); k != nil {
		return k.N.BitLen()
	}
	return 0
}

// looseTags reads a list of tag=value as far as it is one, values without white space.
func looseTags(s string) map[string]string {
	tags := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		if name, value, ok := strings.Cut(part, "="); ok {
			tags[strings.TrimSpace(name)] = strings.Join(strings.FieldsFunc(value, unicode.IsSpace), "")
		}
	}
	return tags
}

// signedNames reads the names of fields that a signature covers (h=), up to one more
// than maxNames.
func signedNames(h string) []string {
	names := strings.SplitN(strings.ToLower(squeeze(h)), ":", maxNames+2)
	return names[:min(len(names), maxNames+1)]
}

// fieldIndex has the fields of each name, in their order.
type fieldIndex map[string][]string

func newIndex(fields []string) fieldIndex {
	index := fieldIndex{}
	for _, f := range fields {
		name := fieldName(f)
		index[name] = append(index[name], f)
	}
	return index
}

// covered returns the fields that a signature covers: for each name, the lowest field
// of that name that was not yet taken (RFC 6376 section 5.4.2).
func (index fieldIndex) covered(names []string) []string {
	var list []string
	taken := map[string]int{}
	for _, name := range names {
		if fields := index[name]; taken[name] < len(fields) {
			taken[name]++
			list = append(list, fields[len(fields)-taken[name]])
		}
	}
	return list
}

// reader reads until the context ends.
type reader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
