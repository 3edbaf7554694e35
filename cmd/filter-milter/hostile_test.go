package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-milter"

	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// packet returns a packet of the protocol.
func packet(code byte, data string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))
	return append(append(b, code), data...)
}

// odd is a milter that has agreed on everything and leaves out all but what is in
// steps; answer is given each packet that it gets.
func odd(t *testing.T, steps milter.OptProtocol, answer func(c net.Conn, code byte, data string)) *bridge {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			go func() {
				defer c.Close()
				for {
					var size [4]byte
					if _, err := io.ReadFull(c, size[:]); err != nil {
						return
					}
					data := make([]byte, binary.BigEndian.Uint32(size[:]))
					if _, err := io.ReadFull(c, data); err != nil {
						return
					}
					if data[0] == byte(milter.CodeOptNeg) {
						binary.BigEndian.PutUint32(data[9:], uint32(steps))
						_, _ = c.Write(packet(data[0], string(data[1:])))
						continue
					}
					answer(c, data[0], string(data[1:]))
				}
			}()
		}
	}()
	return &bridge{network: "tcp", address: l.Addr().String(), patience: time.Minute, forMessage: time.Minute}
}

// Neither silence nor signs of progress without end hold up a session for longer than
// the milter may take, and with -o it goes on.
func TestMilterThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(c net.Conn, code byte, data string){
		"silent": func(net.Conn, byte, string) {},
		"progress": func(c net.Conn, _ byte, _ string) {
			for {
				if _, err := c.Write(packet('p', "")); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond) // its pace
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := odd(t, 0, answer)
			b.patience, b.failOpen = 100*time.Millisecond, true
			d := filtertest.Start(t, b.filter(), filtertest.OpenSMTPD())
			o := greet(d, "192.0.2.1:1234", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
			if o.Refused != "" || o.Text != text || !strings.Contains(d.Log(), "timeout") {
				t.Errorf("%+v, log: %s", o, d.Log())
			}
		})
	}
}

// A milter that hangs with a message is given up, too.
func TestMilterThatHangsWithAMessageIsGivenUp(t *testing.T) {
	t.Parallel()
	b := odd(t, steps&^milter.OptNoBody, func(c net.Conn, code byte, _ string) {
		for code == byte(milter.CodeEOB) {
			if _, err := c.Write(packet('p', "")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // its pace
		}
	})
	b.forMessage = 100 * time.Millisecond
	d := filtertest.Start(t, b.filter(), filtertest.OpenSMTPD())
	o := greet(d, "192.0.2.1:1234", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
	if !strings.Contains(o.Refused, "451 4.7.1 Mail filter unavailable") || !strings.Contains(d.Log(), "timeout") {
		t.Errorf("%+v, log: %s", o, d.Log())
	}
}

// A milter that never stops changing a message is given up before its changes fill the
// memory, be they large or small.
func TestMilterThatChangesWithoutEndIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{"large": strings.Repeat("x", 1<<20-1), "small": "x", "none": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code := byte(milter.ActReplBody)
			if change == "" {
				code = 'p'
			}
			many := packet(code, change)
			for len(many) < 1<<16 {
				many = append(many, many...)
			}
			sent := make(chan int, 1)
			b := odd(t, steps, func(c net.Conn, code byte, _ string) {
				if code != byte(milter.CodeEOB) {
					return
				}
				n := 0
				for n < 4*maxChanged {
					m, err := c.Write(many)
					n += m
					if err != nil {
						break
					}
				}
				sent <- n
			})
			d := filtertest.Start(t, b.filter(), filtertest.OpenSMTPD())
			o := greet(d, "192.0.2.1:1234", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
			if !strings.Contains(o.Refused, "451 4.7.1 Mail filter unavailable") || !strings.Contains(d.Log(), errTalks.Error()) {
				t.Errorf("refused %q, log: %s", o.Refused, d.Log())
			}
			most := maxChanged + 32<<20 // what the connection holds is sent, too
			if len(change) < 2 {
				most = maxChanged / 4
			}
			if n := <-sent; n > most {
				t.Errorf("it could send %d bytes, want %d at most", n, most)
			}
		})
	}
}

// A body of the most that is promised comes in pieces as small as networks make them.
func TestLongBodyIsTaken(t *testing.T) {
	t.Parallel()
	chunk := "a line that is repeated\r\n" + strings.Repeat(strings.Repeat("y", 76)+"\r\n", 800)
	b := odd(t, steps, func(c net.Conn, code byte, _ string) {
		if code != byte(milter.CodeEOB) {
			return
		}
		for range (maxBody - 1<<20) / len(chunk) {
			if _, err := c.Write(packet(byte(milter.ActReplBody), chunk)); err != nil {
				t.Error(err)
				return
			}
		}
		_, _ = c.Write(packet(byte(milter.ActContinue), ""))
	})
	d := filtertest.Start(t, b.filter(), filtertest.OpenSMTPD())
	o := greet(d, "192.0.2.1:1234", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
	if want := strings.Count(o.Text, "a line that is repeated"); o.Refused != "" || want != (maxBody-1<<20)/len(chunk) {
		t.Errorf("refused %q, %d chunks, log: %s", o.Refused, want, d.Log())
	}
}

// The name of the server is told from the first step on, before there is a greeting.
func TestMilterIsToldTheNameOfTheServer(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	for name, tt := range map[string]struct {
		config filtertest.Config
		want   string
	}{
		"told":   {filtertest.OpenSMTPD(), "j\x00mx.example.org\x00"},
		"untold": {filtertest.Config{"config|smtpd-version|7.8.0", "config|protocol|0.7", "config|subsystem|smtp-in"}, "j\x00" + host + "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "untold" && (host == "" || err != nil) {
				t.Skip("this machine has no name")
			}
			macros := make(chan string, 100)
			b := odd(t, steps, func(_ net.Conn, code byte, data string) {
				if code == byte(milter.CodeMacro) {
					macros <- data
				}
			})
			s := filtertest.Start(t, b.filter(), tt.config).Open("192.0.2.1:1234", "x")
			if v := s.Ask(wire.PhaseConnect, "x|192.0.2.1:1234"); v != "proceed" {
				t.Fatal(v)
			}
			if got := <-macros; !strings.HasPrefix(got, string(byte(milter.CodeConn))) || !strings.Contains(got+"\x00", "\x00"+tt.want) && !strings.Contains(got, "C"+tt.want) {
				t.Errorf("macros %q, want %q", got, tt.want)
			}
		})
	}
}

// The deadline and the bytes are those of one question; the next begins anew.
func TestLineBeginsAnew(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	l := &line{Conn: ours}
	defer l.Close()
	go func() {
		for {
			if _, err := theirs.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	}()
	for range 3 {
		l.begin(time.Now().Add(time.Minute), 1000+packetCost+4)
		var size [4]byte
		if _, err := l.Read(size[:]); err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, l)
		if !errors.Is(err, errTalks) || n < 1000 || n > 2000 {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
	l.begin(time.Now().Add(-time.Second), 1<<20)
	if _, err := l.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
}
