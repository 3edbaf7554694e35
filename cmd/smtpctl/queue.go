package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// listPage is how many envelopes are asked for at a time.
const listPage = 500

// showQueue lists the queue, or one message.
func showQueue(ctx context.Context, p *program, args []string) error {
	req := proto.ListRequest{Max: listPage}
	if len(args) > 0 {
		req.MsgID = target(args[0]).MsgID()
	}
	c, err := p.connect(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		return p.showSpool(ctx, req.MsgID, err)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	out := bufio.NewWriterSize(p.stdout, 64<<10)
	for {
		page, _, err := control.Call(ctx, c, proto.List, req)
		if err == nil {
			err = p.writePage(out, page, req.MsgID)
		}
		if err != nil {
			return err
		}
		if page.Next == 0 {
			return out.Flush()
		}
		if page.Next <= req.From {
			return fmt.Errorf("the listing does not go on behind %v", req.From)
		}
		req.From = page.Next
	}
}

// writePage writes one line, or one JSON object, for each entry of a page.
func (p *program) writePage(w io.Writer, page proto.ListReply, only envelope.MsgID) error {
	now := time.Now()
	js := json.NewEncoder(w)
	js.SetEscapeHTML(false)
	var line []byte
	for i := range page.Entries {
		e := &page.Entries[i]
		var err error
		if p.json {
			err = js.Encode(scheduler.Describe(e.Status, &e.Envelope))
		} else {
			line = append(scheduler.AppendLine(line[:0], e.Status, &e.Envelope, now), '\n')
			_, err = w.Write(line)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range page.Corrupt {
		if only != 0 && !strings.HasPrefix(strings.TrimPrefix(name, "corrupt/"), only.String()) {
			continue
		}
		var err error
		if p.json {
			err = js.Encode(corruptEntry{ID: name, State: "corrupt", Error: corruptText})
		} else {
			_, err = fmt.Fprintf(w, "%s|||||||||||corrupt||%s\n", strings.ReplaceAll(oneLine(name), "|", " "), corruptText)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const corruptText = "damaged, set aside in the spool's directory corrupt"

// corruptEntry is what JSON says of a damaged envelope.
type corruptEntry struct {
	ID    string `json:"evpid"`
	State string `json:"state"`
	Error string `json:"error"`
}

// showEnvelope prints an envelope as it is on disk, or in JSON where it stands.
func showEnvelope(ctx context.Context, p *program, args []string) error {
	id := target(args[0])
	if !p.json {
		r, err := call(ctx, p, proto.Show, proto.ShowRequest{ID: id})
		if err != nil {
			return err
		}
		_, err = p.stdout.Write(r.Text)
		return err
	}
	page, err := call(ctx, p, proto.List, proto.ListRequest{From: id, MsgID: id.MsgID(), Max: 1})
	if err != nil {
		return err
	}
	if len(page.Entries) == 0 || page.Entries[0].Envelope.ID != id {
		return fmt.Errorf("no envelope %s", args[0])
	}
	page.Entries, page.Corrupt = page.Entries[:1], nil
	return p.writePage(p.stdout, page, id.MsgID())
}

// showMessage prints a message.
func showMessage(ctx context.Context, p *program, args []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	r, files, err := control.Call(ctx, c, proto.Show, proto.ShowRequest{ID: target(args[0]), Body: true})
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) == 0 {
		_, err = p.stdout.Write(r.Text)
		return err
	}
	fi, err := files[0].Stat()
	if err != nil {
		return err
	}
	// The offset is shared with the daemon: read by position.
	_, err = io.Copy(p.stdout, io.NewSectionReader(files[0], 0, fi.Size()))
	return err
}

// manage makes a command that changes envelopes.
func manage(verb, done string) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, args []string) error {
		r, err := call(ctx, p, proto.Manage, proto.ManageRequest{Verb: verb, ID: target(args[0])})
		if err != nil {
			return err
		}
		s := "s"
		if r.Count == 1 {
			s = ""
		}
		fmt.Fprintf(p.stdout, "%d envelope%s %s\n", r.Count, s, done)
		return nil
	}
}

// mailq is "show queue" under the name other systems have for it.
func (p *program) mailq(ctx context.Context, args []string) int {
	for _, a := range args {
		switch a {
		case "-j":
			p.json = true
		case "-v", "-Ac":
		default:
			fmt.Fprintln(p.stderr, "usage: mailq [-j]")
			return exitUsage
		}
	}
	return p.report(showQueue(ctx, p, nil))
}
