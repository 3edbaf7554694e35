package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"html"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Bounds of the search for names in a message.
const (
	maxNames = 20
	maxText  = 1 << 20 // bytes of the message that are looked at
	maxParts = 50      // of a message and the messages in it
	maxDepth = 5       // of parts in parts

	maxAuthority = 1000 // bytes of a web address up to its path
)

// search looks for names in the parts of a message.
type search struct {
	names []string
	parts int
}

// domains returns the registered domains of the web addresses in the text of a message,
// as they come first, in lower case: 20 at most, of the first MiB.
func domains(r io.Reader) []string {
	text, err := io.ReadAll(io.LimitReader(r, maxText))
	if err != nil {
		return nil // what the message is kept in fails; that shows when it goes on
	}
	s := new(search)
	s.message(text, 0)
	return s.names
}

// message looks at a header and a body.
func (s *search) message(text []byte, depth int) {
	head, body, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	if bytes.HasPrefix(text, []byte("\r\n")) {
		head, body = nil, text[2:]
	}
	s.part(header(head), body, depth)
}

// header returns the fields that say what a body is. It never fails: what is no field
// is left out.
func header(head []byte) textproto.MIMEHeader {
	h := make(textproto.MIMEHeader)
	unfolded := strings.NewReplacer("\r\n ", " ", "\r\n\t", " ").Replace(string(head))
	for line := range strings.Lines(unfolded) {
		name, value, ok := strings.Cut(line, ":")
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		if ok && (name == "Content-Type" || name == "Content-Transfer-Encoding") && h[name] == nil {
			h.Set(name, strings.TrimSpace(value))
		}
	}
	return h
}

// part looks at a part of whatever type.
func (s *search) part(h textproto.MIMEHeader, body []byte, depth int) {
	if s.parts++; s.parts > maxParts || depth > maxDepth {
		return
	}
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && kind == "" {
		kind = "text/plain" // RFC 2045 section 5.2
	}
	switch {
	case strings.HasPrefix(kind, "multipart/") && params["boundary"] != "":
		parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
		for s.parts <= maxParts && len(s.names) < maxNames {
			p, err := parts.NextRawPart()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil { // readers make of it what they can, and so do we
				s.text(string(body))
				return
			}
			// A part that ends early, as one behind the bound does, has been read as far
			// as it goes.
			text, _ := io.ReadAll(p)
			s.part(p.Header, text, depth+1)
		}
	case kind == "message/rfc822" || kind == "message/global":
		s.message(body, depth+1)
	case strings.HasPrefix(kind, "text/") || strings.HasPrefix(kind, "multipart/"):
		text := string(decode(h.Get("Content-Transfer-Encoding"), body))
		if kind == "text/html" {
			text = html.UnescapeString(text)
		}
		s.text(text)
	}
}

// decode undoes a transfer encoding (RFC 2045 section 6) as far as it can be undone.
func decode(encoding string, body []byte) []byte {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "quoted-printable":
		return unquote(body)
	case "base64":
		digits := make([]byte, 0, len(body))
		for _, c := range body {
			if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
				digits = append(digits, c)
			}
		}
		out := make([]byte, base64.RawStdEncoding.DecodedLen(len(digits)))
		n, _ := base64.RawStdEncoding.Decode(out, digits) // what comes before an error counts
		return out[:n]
	}
	return body
}

// unquote undoes quoted-printable; what is not well-formed stays.
func unquote(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch rest := b[i:]; {
		case b[i] != '=':
			out = append(out, b[i])
		case bytes.HasPrefix(rest, []byte("=\r\n")):
			i += 2
		case bytes.HasPrefix(rest, []byte("=\n")):
			i++
		case len(rest) >= 3 && hex(rest[1]) >= 0 && hex(rest[2]) >= 0:
			out = append(out, byte(hex(rest[1])<<4|hex(rest[2])))
			i += 2
		default:
			out = append(out, b[i])
		}
	}
	return out
}

func hex(c byte) int { return strings.IndexByte("0123456789abcdef", lower(c)) }

// lower returns an ASCII letter in lower case, and any other byte as it is.
func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// text finds what looks like a web address: a name behind "//", or one that begins
// with "www.".
func (s *search) text(text string) {
	for i := 0; i < len(text) && len(s.names) < maxNames; {
		switch {
		case strings.HasPrefix(text[i:], "//"):
			i += 2
		case lower(text[i]) == 'w' && len(text)-i > 4 && strings.EqualFold(text[i:i+4], "www."):
		default:
			i++
			continue
		}
		name := authority(text[i:])
		s.host(plain(name))
		i += max(len(name), 1)
	}
}

// authority returns what names the host at the start of text (RFC 3986 section 3.2).
func authority(text string) string {
	text = text[:min(len(text), maxAuthority)]
	if i := strings.IndexAny(text, "/?#\\<>\"'()[]{},;| \t\r\n"); i >= 0 {
		text = text[:i]
	}
	return text
}

// plain returns the host of an authority.
func plain(text string) string {
	text = text[strings.LastIndexByte(text, '@')+1:]
	text, _, _ = strings.Cut(text, ":")
	if decoded, err := url.PathUnescape(text); err == nil {
		text = decoded
	}
	return text
}

// host adds the registered domain of a host, when there is one.
func (s *search) host(host string) {
	host = strings.ToLower(strings.TrimRight(host, "."))
	if !validName(host) {
		return
	}
	suffix, icann := publicsuffix.PublicSuffix(host)
	if !icann && !strings.Contains(suffix, ".") {
		return // no such top-level domain; numbers are none either
	}
	name, err := publicsuffix.EffectiveTLDPlusOne(host)
	if err == nil && !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
	}
}
