package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
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
	if _, ok := s.decide(ctx, wire.PhaseStartTLS, "", ""); !ok {
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
	s.Ciphers = tlsconf.Describe(&state)
	s.Verified = len(state.VerifiedChains) > 0
	s.cfg.Events.Report(report.TLS{Session: s.ID, Ciphers: s.Ciphers})
	s.tell(wire.LinkTLS{Text: s.Ciphers})
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
