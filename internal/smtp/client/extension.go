package client

import (
	"strconv"
	"strings"
)

// maxMechanisms bounds the list of AUTH mechanisms that is kept.
const maxMechanisms = 32

// Extensions are what a server offers in its reply to EHLO or LHLO.
type Extensions struct {
	Extended   bool // EHLO or LHLO was taken
	Pipelining bool
	Chunking   bool
	EightBit   bool // 8BITMIME
	UTF8       bool // SMTPUTF8
	DSN        bool
	Enhanced   bool // ENHANCEDSTATUSCODES
	StartTLS   bool
	RequireTLS bool
	Size       bool
	MaxSize    int64    // bytes of a message; 0: not said
	Auth       []string // mechanisms, upper case
	MaxMails   int      // LIMITS MAILMAX, transactions in a session; 0: not said
	MaxRcpts   int      // LIMITS RCPTMAX, recipients in a transaction; 0: not said
	MaxDomains int      // LIMITS RCPTDOMAINMAX, their domains; 0: not said
}

// add notes the extension that a line of the reply names. What is not known is
// passed over.
func (e *Extensions) add(text string) {
	word, args, _ := strings.Cut(text, " ")
	word = strings.ToUpper(word)
	if rest, ok := strings.CutPrefix(word, "AUTH="); ok { // as before RFC 2554
		word, args = "AUTH", rest+" "+args
	}
	switch word {
	case "PIPELINING":
		e.Pipelining = true
	case "CHUNKING":
		e.Chunking = true
	case "8BITMIME":
		e.EightBit = true
	case "SMTPUTF8":
		e.UTF8 = true
	case "DSN":
		e.DSN = true
	case "ENHANCEDSTATUSCODES":
		e.Enhanced = true
	case "STARTTLS":
		e.StartTLS = true
	case "REQUIRETLS":
		e.RequireTLS = true
	case "SIZE":
		e.Size = true
		if n, err := strconv.ParseInt(strings.TrimSpace(args), 10, 64); err == nil && n > 0 {
			e.MaxSize = n
		}
	case "AUTH":
		for m := range strings.FieldsSeq(args) {
			if len(e.Auth) < maxMechanisms {
				e.Auth = append(e.Auth, strings.ToUpper(m))
			}
		}
	case "LIMITS":
		e.addLimits(args)
	}
}

// addLimits notes the limits that RFC 9422 section 4 names.
func (e *Extensions) addLimits(args string) {
	for limit := range strings.FieldsSeq(args) {
		name, value, _ := strings.Cut(limit, "=")
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil || n == 0 {
			continue
		}
		switch strings.ToUpper(name) {
		case "MAILMAX":
			e.MaxMails = int(n)
		case "RCPTMAX":
			e.MaxRcpts = int(n)
		case "RCPTDOMAINMAX":
			e.MaxDomains = int(n)
		}
	}
}
