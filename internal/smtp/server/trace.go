package server

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/header"
)

// appendTrace appends the fields that this server puts in front of a message (RFC
// 5321 section 4.4); the package comment shows one.
func (s *session) appendTrace(dst []byte, now time.Time) []byte {
	if s.tx.Junk {
		dst = append(dst, spamField...)
	}
	dst = append(dst, "Received: "...)
	if !s.cfg.MaskSource {
		dst = append(append(dst, "from "...), s.HELO...)
		dst = append(append(dst, " ("...), s.RDNS...)
		dst = append(append(append(dst, ' '), s.bracketed()...), ')')
	}
	dst = append(append(dst, "\n\tby "...), s.Name...)
	dst = append(append(dst, " (OpenSMTPD) with "...), s.protocol()...)
	dst = append(append(dst, " id "...), s.tx.ID.String()...)
	if s.TLS != nil {
		dst = append(append(dst, " ("...), s.Ciphers...)
		if s.Verified {
			dst = append(dst, ":YES)"...)
		} else {
			dst = append(dst, ":NO)"...)
		}
		if s.cfg.ReceivedAuth {
			dst = s.appendAuth(dst)
		}
	}
	if len(s.tx.Rcpts) == 1 {
		dst = append(append(append(dst, "\n\tfor <"...), s.tx.Rcpts[0].Path.String()...), '>')
	}
	dst = header.AppendDate(append(dst, ";\n\t"...), now)
	return append(dst, '\n')
}

// appendAuth says who authenticated. Bytes of the user name that mean something in
// a structured field become "_".
func (s *session) appendAuth(dst []byte) []byte {
	if s.Username == "" {
		return append(dst, " auth=no"...)
	}
	dst = append(dst, " auth=yes user="...)
	for i := 0; i < len(s.Username); i++ {
		switch c := s.Username[i]; c {
		case '(', ')', '<', '>', '[', ']', ':', ';', ',', '"', '\\', ' ', '\t':
			dst = append(dst, '_')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// protocol returns the word of the with clause (RFC 3848, RFC 6531 section 3.7.3).
func (s *session) protocol() string {
	p := "SMTP"
	switch {
	case s.tx.UTF8:
		p = "UTF8SMTP"
	case s.Extended:
		p = "ESMTP"
	}
	if s.TLS != nil {
		p += "S"
	}
	if s.Authenticated {
		p += "A"
	}
	return p
}
