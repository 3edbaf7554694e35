package report

import "time"

// The events of an outgoing session. Their Session is the client's own.

// RelayConnecting: a connection to a next hop is being made.
type RelayConnecting struct {
	Session Session
	Address string // scheme://address:port, as "smtp+tls://192.0.2.1:25"
	Host    string // name of that address, empty when unknown
}

// RelayConnected: the next hop greeted.
type RelayConnected struct{ Session Session }

// RelayTLS: a handshake with the next hop succeeded.
type RelayTLS struct {
	Session Session
	Ciphers string // VERSION:CIPHER:BITS
}

// RelayCertCheck: the certificate of the next hop was looked at.
type RelayCertCheck struct {
	Session     Session
	Result      string // "valid", "unverified", "no certificate presented"
	Fingerprint string // "SHA256:" and hex digits; empty without a certificate
}

// RelayError: something failed in the session.
type RelayError struct {
	Session Session
	Reason  string
}

// RelayRejects: the next hop refuses all mail.
type RelayRejects struct{ Session Session }

// RelayClosing: the session is given up.
type RelayClosing struct {
	Session Session
	Reason  string // tls-failure, tls-connect-failed
}

// RelayDisconnected: the session ended in order.
type RelayDisconnected struct {
	Session  Session
	Reason   string // quit
	Messages int    // sent in the session
}

// RelayRoute: a route to a remote address was taken out of use, or put back.
type RelayRoute struct {
	Source   string        // local address, "-" for the system's choice
	Relay    string        // the address, with its name: "ADDR (NAME)"
	Disabled time.Duration // for so long; zero: enabled
	Reason   string        // "per admin request", or why it was disabled
}

func (RelayConnecting) event()   {}
func (RelayConnected) event()    {}
func (RelayTLS) event()          {}
func (RelayCertCheck) event()    {}
func (RelayError) event()        {}
func (RelayRejects) event()      {}
func (RelayClosing) event()      {}
func (RelayDisconnected) event() {}
func (RelayRoute) event()        {}
