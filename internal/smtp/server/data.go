package server

import (
	"context"
	"math"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// maxExcess is how many times Config.MaxSize a message may have before its end is
// not waited for any more.
const maxExcess = 10

// data answers DATA and reads the message behind it.
func (s *session) data(ctx context.Context, arg string) {
	switch {
	case !s.noArguments(arg):
		return
	case s.tx == nil || s.msg != nil:
		s.notNow()
		return
	case len(s.tx.Rcpts) == 0:
		s.noRecipient()
		return
	}
	if _, ok := s.decide(ctx, wire.PhaseData, "", ""); !ok {
		return
	}
	if err := s.backend.Data(ctx, s.tx); err != nil {
		s.refuseErr(err)
		s.tellData(err)
		return
	}
	s.say(354, smtp.EnhancedCode{}, `Enter mail, end with "." on a line by itself`)
	s.tellData(nil)
	m := s.collect(ctx, false)
	for done := false; !done; {
		p, err := s.wire.chunk(math.MaxInt64, m.deadline)
		if err != nil {
			s.readError(err)
			return
		}
		var used int
		used, done = m.take(ctx, p)
		s.wire.r -= len(p) - used // the commands behind the end
		if !done && m.received/maxExcess > s.cfg.MaxSize {
			s.refuseWith(refuseSize)
			s.badInput(refuseSize.Reply())
			return
		}
	}
	s.finish(ctx)
}

// noRecipient refuses a message that is for nobody.
func (s *session) noRecipient() {
	s.refuse(503, smtp.EnhancedCode{5, 5, 4}, "Invalid command arguments: No recipient specified")
}

// bdat answers BDAT (RFC 3030). Its chunk follows the command without waiting for
// a reply, so it is read whatever the answer is. A refused chunk ends the
// transaction: chunks that were sent behind it get 503.
func (s *session) bdat(ctx context.Context, arg string) {
	size, last, ok := parseBdat(arg)
	if !ok {
		// Where the chunk ends is unknown, hence where the next command begins.
		s.badArgument("BDAT needs a size")
		s.badInput("501 5.5.4 Invalid command arguments: BDAT needs a size")
		return
	}
	if size > s.cfg.MaxSize {
		s.refuseWith(refuseSize)
		s.badInput(refuseSize.Reply())
		return
	}
	refusal := s.beginChunk(ctx)
	if !s.readChunk(ctx, size) {
		return
	}
	switch {
	case refusal != nil:
		refusal()
		s.reset()
	case s.msg.refusal != nil:
		s.finish(ctx)
	case !last:
		s.say(250, smtp.EnhancedCode{2, 0, 0}, strconv.FormatInt(size, 10)+" octets received")
	default:
		s.finish(ctx)
	}
}

// beginChunk prepares for a chunk. It returns how to refuse it, or nil.
func (s *session) beginChunk(ctx context.Context) (refusal func()) {
	switch {
	case s.tx == nil:
		return s.notNow
	case s.msg != nil:
		return nil
	case len(s.tx.Rcpts) == 0:
		return s.noRecipient
	}
	if s.filter != nil {
		if v := s.filter.Decide(ctx, wire.PhaseData, ""); v.Refusal != nil {
			return func() { s.turnDown(v) }
		} else if v.Junk {
			s.tx.Junk = true
		}
	}
	if err := s.backend.Data(ctx, s.tx); err != nil {
		return func() { s.refuseErr(err) }
	}
	s.tellData(nil)
	s.collect(ctx, true)
	return nil
}

// readChunk reads size bytes into the message, or away when there is none. When it
// returns false the session has ended.
func (s *session) readChunk(ctx context.Context, size int64) bool {
	p := newPace(s.cfg)
	for size > 0 {
		b, err := s.wire.chunk(size, p.deadline)
		if err != nil {
			s.readError(err)
			return false
		}
		size -= int64(len(b))
		p.received += int64(len(b))
		if s.msg != nil {
			s.msg.take(ctx, b)
		}
	}
	return true
}

// parseBdat parses "SIZE" and "SIZE LAST".
func parseBdat(arg string) (size int64, last, ok bool) {
	number, word, hasWord := strings.Cut(arg, " ")
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || hasWord && !strings.EqualFold(strings.TrimLeft(word, " "), "LAST") {
		return 0, false, false
	}
	return int64(n), hasWord, true
}
