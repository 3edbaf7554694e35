package mda

import (
	"bytes"
	"strconv"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Exit statuses of sysexits.h that decide about trying again.
const (
	exOSErr    = 71
	exTempFail = 75

	exSignal = 128 // a shell's: the number of a signal is added
)

// maxLastWords bounds the line of output that is kept, in bytes, quotes included.
const maxLastWords = 256

// Exit is how a command ended.
type Exit struct {
	Code     int    // exit status, when Signal is 0
	Signal   int    // number of the signal that killed it
	TimedOut bool   // it was ended for running too long
	Stopped  string // it was ended by us for this other reason
	Unread   bool   // part of the message was not taken
	Output   []byte // the end of stdout and stderr
}

// Result maps the end of a command to the result of the delivery. Only an exit
// status other than 71 and 75 is permanent, and one above 128 is not: by that a
// shell says that a signal killed what it ran, for lack of memory perhaps.
func (e Exit) Result() Result {
	temp := Result{Enhanced: smtp.EnhancedCode{4, 3, 0}}
	words := LastWords(e.Output)
	say := func(text string) string {
		if words != "" {
			return words
		}
		return text
	}
	switch {
	case e.Stopped != "":
		temp.Text = e.Stopped
	case e.TimedOut:
		temp.Text = "terminated; timeout"
	case e.Signal != 0:
		temp.Text = "terminated; signal " + strconv.Itoa(e.Signal)
	case e.Code == 0 && e.Unread:
		temp.Text = "mda exited prematurely"
	case e.Code == 0:
		return OK()
	case e.Code > exSignal && e.Code <= exSignal+64:
		temp.Exit = e.Code
		temp.Text = say("terminated; signal " + strconv.Itoa(e.Code-exSignal))
	case e.Code == exOSErr || e.Code == exTempFail:
		temp.Exit = e.Code
		temp.Text = say("exited abnormally")
	default:
		r := Refuse(smtp.EnhancedCode{5, 3, 0}, say("exited abnormally"))
		r.Exit = e.Code
		return r
	}
	return temp
}

// LastWords returns the last line of output that is not empty, in double quotes,
// unprintable bytes as vis(3) shows them, 256 bytes at most; "" without one.
func LastWords(output []byte) string {
	output = bytes.TrimRight(output, "\r\n")
	line := output[bytes.LastIndexByte(output, '\n')+1:]
	if len(line) == 0 {
		return ""
	}
	b := make([]byte, 1, maxLastWords)
	b[0] = '"'
	for _, c := range line {
		var enc [4]byte
		v := vis(enc[:0], c)
		if len(b)+len(v) > maxLastWords-1 {
			break
		}
		b = append(b, v...)
	}
	return string(append(b, '"'))
}

// vis appends c as vis(3) encodes it by default: \^C for control characters,
// \M-c and \M^C for bytes with the eighth bit, \\ for the backslash.
func vis(b []byte, c byte) []byte {
	switch {
	case c == '\\':
		return append(b, '\\', '\\')
	case c == '\t' || c >= ' ' && c < 0x7f:
		return append(b, c)
	}
	b = append(b, '\\')
	if c >= 0x80 {
		b = append(b, 'M')
		c &= 0x7f
		if c >= ' ' && c < 0x7f {
			return append(b, '-', c)
		}
	}
	if c == 0x7f {
		return append(b, '^', '?')
	}
	return append(b, '^', c+'@')
}

// sysexit returns the meaning of an exit status of sysexits.h, else "".
func sysexit(code int) string {
	words := [...]string{
		"command line usage error", "data format error", "cannot open input", "user unknown",
		"host name unknown", "service unavailable", "internal software error", "system resource problem",
		"critical OS file missing", "can't create user output file", "input/output error",
		"temporary failure", "remote error in protocol", "permission denied", "local configuration error",
	}
	if code < 64 || code >= 64+len(words) {
		return ""
	}
	return words[code-64]
}
