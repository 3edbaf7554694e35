package filter

import "github.com/opensmtpd/opensmtpd/filter/wire"

// report takes over what happened into the session and tells the filter.
func (s *Session) report(m *wire.ToFilter) {
	r, err := wire.ParseReport(m.Version, m.Event, m.Text)
	if err != nil {
		if m.Event != 0 { // else of a later version of the protocol
			s.Logf("%v", err)
		}
		return
	}
	switch r := r.(type) {
	case wire.LinkConnect, wire.LinkGreeting, wire.LinkIdentify, wire.LinkTLS, wire.LinkAuth, wire.LinkDisconnect:
		s.reportLink(r)
	case wire.TxReset, wire.TxBegin, wire.TxMail, wire.TxRcpt, wire.TxEnvelope, wire.TxData, wire.TxCommit, wire.TxRollback:
		s.reportTx(r)
	case wire.ProtocolClient:
		if f := s.f.OnProtocolClient; f != nil {
			f(s, r.Line)
		}
	case wire.ProtocolServer:
		if f := s.f.OnProtocolServer; f != nil {
			f(s, r.Line)
		}
	case wire.FilterReport:
		if f := s.f.OnFilterReport; f != nil {
			f(s, r.Type, r.Name, r.Message)
		}
	case wire.FilterResponse:
		if f := s.f.OnFilterResponse; f != nil {
			f(s, r.Phase, r.Response, r.Param)
		}
	case wire.Timeout:
		s.tell(s.f.OnTimeout)
	}
}

// tell calls f if it is set.
func (s *Session) tell(f func(*Session)) {
	if f != nil {
		f(s)
	}
}

func (s *Session) reportLink(r wire.Report) {
	f := s.f
	switch r := r.(type) {
	case wire.LinkConnect:
		s.setRDNS(r.RDNS)
		s.FCrDNS = r.FCrDNS
		s.Source, s.Local = parseEnd(r.Source)
		s.Destination, _ = parseEnd(r.Destination)
		s.tell(f.OnLinkConnect)
	case wire.LinkGreeting:
		s.Hostname = r.Hostname
		s.tell(f.OnLinkGreeting)
	case wire.LinkIdentify:
		s.Method, s.Identity = r.Method, r.Identity
		s.tell(f.OnLinkIdentify)
	case wire.LinkTLS:
		s.TLS = r.Text
		s.tell(f.OnLinkTLS)
	case wire.LinkAuth:
		if r.Result == Pass {
			s.User = r.User
		}
		if f.OnLinkAuth != nil {
			f.OnLinkAuth(s, r.Result, r.User)
		}
	case wire.LinkDisconnect:
		s.message.drop()
		s.tell(f.OnLinkDisconnect)
		s.Tx = nil
	}
}

func (s *Session) reportTx(r wire.Report) {
	f := s.f
	switch r := r.(type) {
	case wire.TxBegin:
		s.begin(r.Message)
		s.tell(f.OnTxBegin)
	case wire.TxMail:
		if r.Result == OK {
			s.transaction(r.Message).Sender = r.Address
		}
		if f.OnTxMail != nil {
			f.OnTxMail(s, r.Result, r.Address)
		}
	case wire.TxRcpt:
		if tx := s.transaction(r.Message); r.Result == OK {
			tx.Recipients = append(tx.Recipients, r.Address)
		}
		if f.OnTxRcpt != nil {
			f.OnTxRcpt(s, r.Result, r.Address)
		}
	case wire.TxEnvelope:
		tx := s.transaction(r.Message)
		tx.Envelopes = append(tx.Envelopes, r.Envelope)
		if f.OnTxEnvelope != nil {
			f.OnTxEnvelope(s, r.Envelope)
		}
	case wire.TxData:
		if f.OnTxData != nil {
			f.OnTxData(s, r.Result)
		}
	case wire.TxCommit:
		if f.OnTxCommit != nil {
			f.OnTxCommit(s, r.Size)
		}
	case wire.TxRollback:
		s.message.drop()
		s.tell(f.OnTxRollback)
	case wire.TxReset:
		s.message.drop()
		s.tell(f.OnTxReset)
		s.Tx = nil
	}
}

// begin gives the transaction its id. MailFrom may have made it already.
func (s *Session) begin(id uint32) {
	if s.Tx == nil || s.Tx.ID != 0 {
		s.Tx = new(Transaction)
	}
	s.Tx.ID = id
}

// transaction returns the one with that id; a new one when its begin was not seen.
func (s *Session) transaction(id uint32) *Transaction {
	if s.Tx == nil || s.Tx.ID != id {
		s.begin(id)
	}
	return s.Tx
}
