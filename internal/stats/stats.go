// Package stats keeps the counters that smtpctl shows. Most follow from the events
// of internal/report; the rest are gauges that a process sets itself. Counting is
// one atomic addition. Counters of several processes are merged by adding.
package stats

import (
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Key names a counter. Its String is the name an operator sees.
type Key uint8

// The counters. Those marked gauge go up and down; the others only grow.
const (
	BounceEnvelope       Key = iota // failures and delays reported to senders
	BounceMessage                   // DSNs made
	BounceSession                   // gauge: DSNs being made
	ControlSession                  // gauge
	MDAEnvelope                     // gauge: attempts known to local delivery
	MDAPending                      // gauge
	MDARunning                      // gauge
	MDAUser                         // gauge
	MDAWorker                       // gauge: delivery workers alive
	MTAConnector                    // gauge, as all of mta
	MTADomain                       //
	MTAEnvelope                     //
	MTAHost                         //
	MTARelay                        //
	MTARoute                        //
	MTASession                      //
	MTASource                       //
	MTATask                         //
	MTATaskRunning                  //
	QueueSync                       // times the spool waited for the disk, for one message or many
	QueueBounce                     // envelopes that became bounces
	CacheLoadHit                    //
	CacheLoadMissed                 //
	CacheSize                       // gauge
	CacheUpdateHit                  //
	CacheUpdateMissed               //
	RAMEnvelopeSize                 // gauge, bytes
	RAMMessageSize                  // gauge, bytes
	DeliveryLoop                    // attempts that found a loop
	DeliveryOK                      // attempts that ended well
	DeliveryPermFail                //
	DeliveryTempFail                //
	Envelopes                       // gauge: in the schedule
	EnvelopesExpired                //
	EnvelopesIncoming               //
	EnvelopesInFlight               // gauge
	EnvelopesRemoved                // by an operator
	EnvelopesUpdated                //
	RAMQueueEnvelope                // gauge, as all of ramqueue but hold-overflow
	RAMQueueHold                    //
	RAMQueueHoldOverflow            //
	RAMQueueHoldQueues              //
	RAMQueueMessage                 //
	RAMQueueUpdate                  //
	SMTPSession                     // gauge
	SMTPInet4                       // sessions so far, by the client's address
	SMTPInet6                       //
	SMTPLocal                       //
	SMTPS                           // gauge: sessions on TLS from the start
	SMTPTLS                         // gauge: sessions after STARTTLS
	Uptime                          // gauge, seconds
	SMTPConnected                   // sessions begun
	SMTPDisconnected                // sessions ended
	SMTPMessage                     // messages accepted
	SMTPRefused4                    // commands refused for now (4yz)
	SMTPRefused5                    // commands refused for good (5yz)
	SMTPBadInput                    // sessions that broke the protocol
	AuthOK                          //
	AuthPermFail                    //
	AuthTempFail                    //
	keys
)

var names = [keys]string{
	BounceEnvelope: "bounce.envelope", BounceMessage: "bounce.message", BounceSession: "bounce.session",
	ControlSession: "control.session",
	MDAEnvelope:    "mda.envelope", MDAPending: "mda.pending", MDARunning: "mda.running", MDAUser: "mda.user",
	MDAWorker:    "mda.worker",
	MTAConnector: "mta.connector", MTADomain: "mta.domain", MTAEnvelope: "mta.envelope", MTAHost: "mta.host",
	MTARelay: "mta.relay", MTARoute: "mta.route", MTASession: "mta.session", MTASource: "mta.source",
	MTATask: "mta.task", MTATaskRunning: "mta.task.running",
	QueueSync: "queue.sync", QueueBounce: "queue.bounce", CacheLoadHit: "queue.evpcache.load.hit", CacheLoadMissed: "queue.evpcache.load.missed",
	CacheSize: "queue.evpcache.size", CacheUpdateHit: "queue.evpcache.update.hit",
	CacheUpdateMissed: "queue.evpcache.update.missed",
	RAMEnvelopeSize:   "queue.ram.envelope.size", RAMMessageSize: "queue.ram.message.size",
	DeliveryLoop: "scheduler.delivery.loop", DeliveryOK: "scheduler.delivery.ok",
	DeliveryPermFail: "scheduler.delivery.permfail", DeliveryTempFail: "scheduler.delivery.tempfail",
	Envelopes: "scheduler.envelope", EnvelopesExpired: "scheduler.envelope.expired",
	EnvelopesIncoming: "scheduler.envelope.incoming", EnvelopesInFlight: "scheduler.envelope.inflight",
	EnvelopesRemoved: "scheduler.envelope.removed", EnvelopesUpdated: "scheduler.envelope.updated",
	RAMQueueEnvelope: "scheduler.ramqueue.envelope", RAMQueueHold: "scheduler.ramqueue.hold",
	RAMQueueHoldOverflow: "scheduler.ramqueue.hold-overflow", RAMQueueHoldQueues: "scheduler.ramqueue.holdq",
	RAMQueueMessage: "scheduler.ramqueue.message", RAMQueueUpdate: "scheduler.ramqueue.update",
	SMTPSession: "smtp.session", SMTPInet4: "smtp.session.inet4", SMTPInet6: "smtp.session.inet6",
	SMTPLocal: "smtp.session.local", SMTPS: "smtp.smtps", SMTPTLS: "smtp.tls", Uptime: "uptime",
	SMTPConnected: "smtp.connected", SMTPDisconnected: "smtp.disconnected", SMTPMessage: "smtp.message",
	SMTPRefused4: "smtp.refused.4xx", SMTPRefused5: "smtp.refused.5xx", SMTPBadInput: "smtp.bad-input",
	AuthOK: "smtp.auth.ok", AuthPermFail: "smtp.auth.permfail", AuthTempFail: "smtp.auth.tempfail",
}

// String returns the name in dotted words.
func (k Key) String() string {
	if k < keys {
		return names[k]
	}
	return "invalid"
}

// Set is the counters of one process. The zero Set is ready; its methods may be
// called at the same time.
type Set struct {
	counters [keys]counter
}

type counter struct {
	value   atomic.Int64
	touched atomic.Bool // a counter is shown from its first change on
}

// Add changes a counter by n.
func (s *Set) Add(k Key, n int64) {
	c := &s.counters[k]
	c.value.Add(n)
	if !c.touched.Load() {
		c.touched.Store(true)
	}
}

// Set sets a gauge.
func (s *Set) Set(k Key, n int64) {
	c := &s.counters[k]
	c.value.Store(n)
	if !c.touched.Load() {
		c.touched.Store(true)
	}
}

// Get returns a counter.
func (s *Set) Get(k Key) int64 { return s.counters[k].value.Load() }

// Snapshot returns the counters that ever changed.
func (s *Set) Snapshot() map[string]int64 {
	m := make(map[string]int64)
	for k := range s.counters {
		if c := &s.counters[k]; c.touched.Load() {
			m[names[k]] = c.value.Load()
		}
	}
	return m
}

// Merge adds the counters of from to those of into.
func Merge(into, from map[string]int64) {
	for k, v := range from {
		into[k] += v
	}
}

var _ report.Sink = (*Set)(nil)

// Report counts an event.
func (s *Set) Report(ev report.Event) {
	switch e := ev.(type) {
	case report.Connected:
		s.Add(SMTPSession, 1)
		s.Add(SMTPConnected, 1)
		switch {
		case e.Address == "local":
			s.Add(SMTPLocal, 1)
		case len(e.Address) > 0 && e.Address[0] == '[':
			s.Add(SMTPInet6, 1)
		default:
			s.Add(SMTPInet4, 1)
		}
	case report.Disconnected:
		s.Add(SMTPSession, -1)
		s.Add(SMTPDisconnected, 1)
	case report.Authentication:
		switch e.Result {
		case "ok":
			s.Add(AuthOK, 1)
		case "permfail":
			s.Add(AuthPermFail, 1)
		default:
			s.Add(AuthTempFail, 1)
		}
	case report.Message:
		s.Add(SMTPMessage, 1)
	case report.Envelope:
		s.Add(EnvelopesIncoming, 1)
	case report.FailedCommand:
		if len(e.Result) > 0 && e.Result[0] == '4' {
			s.Add(SMTPRefused4, 1)
		} else {
			s.Add(SMTPRefused5, 1)
		}
	case report.BadInput:
		s.Add(SMTPBadInput, 1)
	case report.Delivery:
		s.delivery(&e)
	case report.QueueEnd:
		if e.Verb == "Expire" {
			s.Add(EnvelopesExpired, 1)
		} else {
			s.Add(EnvelopesRemoved, 1)
		}
	}
}

func (s *Set) delivery(e *report.Delivery) {
	switch {
	case e.Stat == report.LoopDetected:
		s.Add(DeliveryLoop, 1)
	case e.Result == report.OK:
		s.Add(DeliveryOK, 1)
	case e.Result == report.PermFail:
		s.Add(DeliveryPermFail, 1)
	default:
		s.Add(DeliveryTempFail, 1)
	}
}
