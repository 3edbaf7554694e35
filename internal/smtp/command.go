package smtp

import (
	"strings"
	"unicode/utf8"
)

// Verb names a command of the server.
type Verb uint8

// The commands. Unknown stands for every other word.
const (
	Unknown Verb = iota
	HELO
	EHLO
	STARTTLS
	AUTH
	MAIL
	RCPT
	DATA
	BDAT
	RSET
	NOOP
	VRFY
	HELP
	QUIT
	WIZ
)

// verbs holds the words of the commands, in upper case. Those of MAIL and RCPT
// end with their colon.
var verbs = [...]string{
	HELO: "HELO", EHLO: "EHLO", STARTTLS: "STARTTLS", AUTH: "AUTH", MAIL: "MAIL FROM:", RCPT: "RCPT TO:",
	DATA: "DATA", BDAT: "BDAT", RSET: "RSET", NOOP: "NOOP", VRFY: "VRFY", HELP: "HELP", QUIT: "QUIT", WIZ: "WIZ",
}

// String returns the word of the command, "MAIL FROM:" for MAIL.
func (v Verb) String() string {
	if int(v) < len(verbs) {
		return verbs[v]
	}
	return ""
}

// Command is a command line taken apart. Arg has no blanks around it. For an
// Unknown verb Arg is the whole line.
type Command struct {
	Verb Verb
	Arg  string
}

// String returns the command line without its line end.
func (c Command) String() string {
	switch {
	case c.Verb == Unknown:
		return c.Arg
	case c.Verb == MAIL || c.Verb == RCPT:
		return c.Verb.String() + c.Arg
	case c.Arg == "":
		return c.Verb.String()
	}
	return c.Verb.String() + " " + c.Arg
}

// ParseCommand takes a command line apart. The line has no line end. Words are
// matched in any case; blanks may follow the colon of MAIL and RCPT, which RFC
// 5321 section 3.3 forbids and clients send.
func ParseCommand(line []byte) Command {
	for v := HELO; int(v) < len(verbs); v++ {
		word := verbs[v]
		if len(line) < len(word) || !equalFold(line[:len(word)], word) {
			continue
		}
		arg := line[len(word):]
		if v != MAIL && v != RCPT && len(arg) > 0 && arg[0] != ' ' && arg[0] != '\t' {
			continue
		}
		return Command{v, strings.Trim(string(arg), " \t")}
	}
	return Command{Unknown, strings.Trim(string(line), " \t")}
}

// IsCommand tells whether line is the command v, without taking it apart.
func IsCommand(line []byte, v Verb) bool {
	word := v.String()
	return len(line) >= len(word) && equalFold(line[:len(word)], word)
}

// equalFold compares with a word in upper case, both of the same length.
func equalFold(b []byte, upper string) bool {
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}

// ValidLine tells whether a command line holds nothing but printable characters,
// blanks and well-formed UTF-8.
func ValidLine(line []byte) bool {
	ascii := true
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
		ascii = ascii && c < 0x80
	}
	return ascii || utf8.Valid(line)
}
