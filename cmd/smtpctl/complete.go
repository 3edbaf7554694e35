package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/getopt"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// exitFile is the status of complete when a file's name could stand there.
const exitFile = 2

// completeWait bounds how long a shell waits for ids of the queue.
const completeWait = time.Second

// optionHelp lists the options, with what they do.
var optionHelp = []candidate{
	{"-4", "only IPv4 addresses"}, {"-6", "only IPv6 addresses"}, {"-j", "print JSON"}, {"-s", "the socket of the daemon"}, {"-v", "tell more"},
}

// candidate is a word that could stand somewhere, and a few words about it.
type candidate struct{ word, help string }

// complete prints the words that could stand for the last of words, the command line
// without the program's name: one a line, with a tab and what it is for, as shells
// want to show it. The status is exitFile where a file could stand.
func (p *program) complete(ctx context.Context, words []string) int {
	last := ""
	if n := len(words); n > 0 {
		last, words = words[n-1], words[:n-1]
	}
	options, words, err := getopt.Parse(words, optionLetters)
	if err != nil {
		return exitFile // what is missing is the argument of -s
	}
	for _, o := range options {
		if o.Letter == 's' {
			p.socket = o.Arg
		}
	}
	list, file := optionHelp, false
	if len(words) > 0 || !strings.HasPrefix(last, "-") {
		list, file = p.following(ctx, words)
	}
	for _, c := range list {
		if strings.HasPrefix(c.word, last) {
			fmt.Fprintf(p.stdout, "%s\t%s\n", c.word, c.help)
		}
	}
	if file {
		return exitFile
	}
	return 0
}

// following returns the words that could follow words, and whether a file could.
func (p *program) following(ctx context.Context, words []string) (list []candidate, file bool) {
	left := commands()
	for i, word := range words {
		left, _ = narrow(left, i, word)
	}
	add := func(word, help string) {
		if !slices.ContainsFunc(list, func(c candidate) bool { return c.word == word }) {
			list = append(list, candidate{word, help})
		}
	}
	for _, c := range left {
		form := strings.Fields(c.form)
		if len(form) <= len(words) {
			continue
		}
		word := form[len(words)]
		switch word {
		case "FILE":
			file = true
		case "TRACE":
			for _, t := range proto.Subsystems {
				add(t, c.help)
			}
		case "EVPID", "MSGID", "TARGET":
			p.ids(ctx, word, add)
		default:
			if kinds[word] != nil {
				continue
			}
			help := c.help
			if slices.ContainsFunc(left, func(o command) bool { return o.form != c.form && o.help != "" && hasWord(o, len(words), word) }) {
				help = "" // one of several commands
			}
			add(word, help)
		}
	}
	return list, file
}

// hasWord tells whether word i of the form of c is word.
func hasWord(c command, i int, word string) bool {
	form := strings.Fields(c.form)
	return i < len(form) && form[i] == word
}

// ids adds the ids that a page of the queue has. Without a daemon, or without the
// right to ask it, there are none.
func (p *program) ids(ctx context.Context, kind string, add func(word, help string)) {
	ctx, cancel := context.WithTimeout(ctx, completeWait)
	defer cancel()
	page, err := call(ctx, p, proto.List, proto.ListRequest{Max: listPage})
	if err != nil {
		return
	}
	var message envelope.MsgID
	for i := range page.Entries {
		e := &page.Entries[i].Envelope
		about := oneLine(e.Dest.String())
		if kind != "EVPID" && e.ID.MsgID() != message {
			message = e.ID.MsgID()
			add(message.String(), about)
		}
		if kind != "MSGID" {
			add(e.ID.String(), about)
		}
	}
}
