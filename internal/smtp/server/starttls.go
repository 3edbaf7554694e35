package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// starttls answers STARTTLS (RFC 3207). Bytes that came behind the command in the
// clear would be taken for part of the secured dialogue: they end the session.
func (s *session) starttls(ctx context.Context, arg string) {
	switch {
	case s.HELO == "" || s.tx != nil:
		s.notNow()
		return
	case s.TLS != nil:
		s.invalid(503, "Channel already secured")
		return
	case !s.offersTLS():
		s.invalid(503, "Command not supported")
		return
	case arg != "":
		s.badArgument("No parameters allowed")
		return
	case s.wire.buffered() > 0:
		s.invalid(554, "Input behind STARTTLS")
		s.badInput("554 5.5.1 Invalid command: Input behind STARTTLS")
		return
	}
	s.say(220, smtp.EnhancedCode{2, 0, 0}, "Ready to start TLS")
	if err := s.wire.flush(); err != nil {
		s.fail(err)
		return
	}
	if s.startTLS(ctx) {
		// All that the client said in the clear is forgotten (RFC 3207 section 4.2).
		s.HELO, s.Extended, s.Username, s.Authenticated = "", false, "", s.Local
	}
}

// startTLS secures the connection. When it returns false the session has ended.
func (s *session) startTLS(ctx context.Context) bool {
	if err := s.wire.raw.SetDeadline(time.Now().Add(s.cfg.Timeout)); err != nil {
		s.fail(err)
		return false
	}
	conn := tls.Server(s.wire.raw, s.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		s.cfg.Events.Report(report.BadInput{Session: s.ID, Result: fmt.Sprintf("TLS handshake failed: %v", err)})
		s.end = reasonTLS
		return false
	}
	state := conn.ConnectionState()
	s.wire.conn, s.TLS = conn, &state
	s.Ciphers = ciphers(&state)
	s.Verified = len(state.VerifiedChains) > 0
	s.cfg.Events.Report(report.TLS{Session: s.ID, Ciphers: s.Ciphers})
	if len(state.PeerCertificates) > 0 {
		result := "unchecked"
		if s.Verified {
			result = "verified"
		}
		sum := sha256.Sum256(state.PeerCertificates[0].Raw)
		s.cfg.Events.Report(report.CertCheck{Session: s.ID, Result: result, Fingerprint: fmt.Sprintf("SHA256:%x", sum)})
	}
	return true
}

// ciphers returns VERSION:CIPHER:BITS in the spelling of OpenSSL, as logs, trace
// headers and filters have it.
func ciphers(state *tls.ConnectionState) string {
	version := map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[state.Version]
	if version == "" {
		version = tls.VersionName(state.Version)
	}
	name, bits := suite(state.CipherSuite)
	return fmt.Sprintf("%s:%s:%d", version, name, bits)
}

// suite returns OpenSSL's name of a cipher suite and the bits of its key.
func suite(id uint16) (name string, bits int) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return "TLS_AES_128_GCM_SHA256", 128
	case tls.TLS_AES_256_GCM_SHA384:
		return "TLS_AES_256_GCM_SHA384", 256
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return "TLS_CHACHA20_POLY1305_SHA256", 256
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-ECDSA-AES128-GCM-SHA256", 128
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-RSA-AES128-GCM-SHA256", 128
	case tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-ECDSA-AES256-GCM-SHA384", 256
	case tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-RSA-AES256-GCM-SHA384", 256
	case tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-ECDSA-CHACHA20-POLY1305", 256
	case tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-RSA-CHACHA20-POLY1305", 256
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:
		return "ECDHE-ECDSA-AES128-SHA", 128
	case tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:
		return "ECDHE-RSA-AES128-SHA", 128
	case tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:
		return "ECDHE-ECDSA-AES256-SHA", 256
	case tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:
		return "ECDHE-RSA-AES256-SHA", 256
	case tls.TLS_RSA_WITH_AES_128_GCM_SHA256:
		return "AES128-GCM-SHA256", 128
	case tls.TLS_RSA_WITH_AES_256_GCM_SHA384:
		return "AES256-GCM-SHA384", 256
	}
	return tls.CipherSuiteName(id), 0
}
