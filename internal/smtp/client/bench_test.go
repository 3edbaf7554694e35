package client

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"testing"
)

// null is a server that takes everything and keeps nothing.
func null(conn net.Conn, extensions string) {
	defer conn.Close()
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriter(conn)
	reply := func(s string) { _, _ = w.WriteString(s) } // an error shows at the next read
	reply("220 null.test\r\n")
	for {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		switch string(line[:4]) {
		case "EHLO":
			reply("250-null.test\r\n" + extensions)
		case "DATA":
			reply("354 go\r\n")
			if w.Flush() != nil {
				return
			}
			for string(line) != ".\r\n" {
				if line, err = r.ReadSlice('\n'); err != nil {
					return
				}
			}
			reply("250 2.0.0 taken\r\n")
		case "BDAT":
			n, _ := strconv.Atoi(strings.Fields(string(line))[1])
			if _, err := r.Discard(n); err != nil {
				return
			}
			reply("250 2.0.0 taken\r\n")
		default:
			reply("250 2.1.0 ok\r\n")
		}
	}
}

func benchmarkSend(b *testing.B, extensions string, size, rcpts int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			null(conn, extensions)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	s := New(conn, Config{Name: "me.test"})
	if err := s.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat(strings.Repeat("x", 63)+"\n", size/64)
	tx := message(b, text)
	for range rcpts {
		tx.Rcpts = append(tx.Rcpts, Recipient{Path: path(b, "b@y.test")})
	}
	body := strings.NewReader(text)
	tx.Body = body
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		body.Reset(text)
		s.wire.received = 0 // so that one session does for all
		if got := s.Send(b.Context(), tx); got[rcpts-1].Err != nil {
			b.Fatal(got[rcpts-1].Err)
		}
	}
	_ = s.Close()
	<-done
}

const pipeliningOnly, withChunking = "250-8BITMIME\r\n250 PIPELINING\r\n", "250-8BITMIME\r\n250-PIPELINING\r\n250 CHUNKING\r\n"

func BenchmarkSend(b *testing.B)             { benchmarkSend(b, "250 8BITMIME\r\n", 1024, 1) }
func BenchmarkSendPipelined(b *testing.B)    { benchmarkSend(b, pipeliningOnly, 1024, 1) }
func BenchmarkSendAtOnce(b *testing.B)       { benchmarkSend(b, withChunking, 1024, 1) }
func BenchmarkSendManyRcpts(b *testing.B)    { benchmarkSend(b, withChunking, 1024, 100) }
func BenchmarkSendLargeMessage(b *testing.B) { benchmarkSend(b, withChunking, 1<<20, 1) }
