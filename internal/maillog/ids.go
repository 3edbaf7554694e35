package maillog

import (
	"bytes"
	"encoding/json"
	"strings"
)

// IDs are the ids that a line is about, as hexadecimal digits; empty where it has none.
type IDs struct {
	Session  string // 16 digits
	Message  string // 8 digits, also when the line is about one of its envelopes
	Envelope string // 16 digits
}

// LineIDs reads the ids of a line of this package, in either format. They stand before
// whatever a stranger chose, and only there are they looked for. Other lines have none.
func LineIDs(line []byte) IDs {
	read := textIDs
	if bytes.HasPrefix(line, []byte("{")) {
		read = objectIDs
	}
	v := read(line)
	if v.Session == "0000000000000000" { // a connection that has not become a session
		v.Session = ""
	}
	if v.Envelope != "" {
		v.Message = v.Envelope[:8]
	}
	return v
}

// textIDs reads
//
//	SESSION smtp connected …
//	SESSION mta delivery evpid=ENVELOPE …
//	SESSION smtp message msgid=MESSAGE …
//	relay: expire for ENVELOPE: …
func textIDs(line []byte) (v IDs) {
	first, rest, _ := bytes.Cut(line, []byte(" "))
	second, rest, _ := bytes.Cut(rest, []byte(" "))
	switch string(first) {
	case "delivery:", "relay:", "bounce:":
		word, rest, _ := bytes.Cut(rest, []byte(" "))
		id, _, _ := bytes.Cut(rest, []byte(": "))
		if len(second) > 0 && string(word) == "for" {
			v.Envelope = hexID(id, 16)
		}
		return v
	}
	if side := string(second); side != "smtp" && side != "mta" && side != "mda" {
		return v
	}
	if v.Session = hexID(first, 16); v.Session == "" {
		return v
	}
	_, rest, _ = bytes.Cut(rest, []byte(" "))
	field, _, _ := bytes.Cut(rest, []byte(" "))
	if id, ok := bytes.CutPrefix(field, []byte("evpid=")); ok {
		v.Envelope = hexID(id, 16)
	} else if id, ok := bytes.CutPrefix(field, []byte("msgid=")); ok {
		v.Message = hexID(id, 8)
	}
	return v
}

// objectIDs reads the members session, msgid and evpid.
func objectIDs(line []byte) IDs {
	var o struct {
		Session string `json:"session"`
		Message string `json:"msgid"`
		ID      string `json:"evpid"`
	}
	if json.Unmarshal(line, &o) != nil {
		return IDs{}
	}
	return IDs{
		Session: hexID([]byte(o.Session), 16), Message: hexID([]byte(o.Message), 8), Envelope: hexID([]byte(o.ID), 16),
	}
}

// hexID returns id if it consists of so many hexadecimal digits.
func hexID(id []byte, digits int) string {
	if len(id) != digits {
		return ""
	}
	for _, c := range id {
		if strings.IndexByte(hexDigits, c) < 0 {
			return ""
		}
	}
	return string(id)
}
