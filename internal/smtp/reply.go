package smtp

import (
	"strconv"
	"strings"
)

// maxReplyText bounds the text of one reply line, in bytes, so that the line with
// its code stays within what clients read. RFC 5321 section 4.5.3.1.5 has 512.
const maxReplyText = 490

// AppendReply appends a reply in wire form to dst: one line for each line of text,
// each with the enhanced code if there is one (RFC 2034 section 4). Control
// characters other than "\n" become "?", long lines are cut.
func AppendReply(dst []byte, code int, enhanced EnhancedCode, text string) []byte {
	for {
		line, rest, more := strings.Cut(text, "\n")
		dst = strconv.AppendInt(dst, int64(code), 10)
		if more {
			dst = append(dst, '-')
		} else {
			dst = append(dst, ' ')
		}
		if enhanced != (EnhancedCode{}) {
			for i, n := range enhanced {
				if i > 0 {
					dst = append(dst, '.')
				}
				dst = strconv.AppendUint(dst, uint64(n), 10)
			}
			dst = append(dst, ' ')
		}
		if len(line) > maxReplyText {
			line = strings.ToValidUTF8(line[:maxReplyText], "")
		}
		for i := 0; i < len(line); i++ {
			if c := line[i]; c < ' ' || c == 0x7f {
				dst = append(dst, '?')
			} else {
				dst = append(dst, c)
			}
		}
		dst = append(dst, '\r', '\n')
		if !more {
			return dst
		}
		text = rest
	}
}
