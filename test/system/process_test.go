//go:build system

package system

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// process is what /proc tells of a process.
type process struct {
	pid    int
	title  string
	root   string
	status map[string]string // /proc/PID/status
}

// children returns the processes that a process has started.
func children(t *testing.T, pid int) []string {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, path := range threads {
		if list, err := os.ReadFile(path); err == nil { // the thread may have ended
			pids = append(pids, strings.Fields(string(list))...)
		}
	}
	return pids
}

// family returns the daemon's processes by their titles.
func (d *daemon) family() map[string]process {
	d.t.Helper()
	pids := append([]string{fmt.Sprint(d.cmd.Process.Pid)}, children(d.t, d.cmd.Process.Pid)...)
	out := map[string]process{}
	for _, pid := range pids {
		p, e := process{pid: atoi(d.t, pid), status: map[string]string{}}, "/proc/"+pid
		status, err := os.ReadFile(e + "/status")
		if err != nil {
			continue // it has ended
		}
		for line := range strings.SplitSeq(string(status), "\n") {
			name, value, _ := strings.Cut(line, ":")
			p.status[name] = strings.TrimSpace(value)
		}
		args, err1 := os.ReadFile(e + "/cmdline")
		root, err2 := os.Readlink(e + "/root")
		if err1 != nil || err2 != nil || len(args) == 0 {
			continue
		}
		p.title, _, _ = strings.Cut(string(args), "\x00")
		p.root = root
		out[p.title] = p
	}
	return out
}

// role returns the process of a role.
func (d *daemon) role(name string) process {
	d.t.Helper()
	p, ok := d.family()["opensmtpd: "+name]
	if !ok {
		d.t.Fatalf("no process of the role %s", name)
	}
	return p
}

func TestEachRoleIsConfined(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	smtp, _ := ids(t, "_smtpd")
	queue, _ := ids(t, "_smtpq")
	family := d.family()
	for _, want := range []struct {
		title, root string
		uid         int
	}{
		{"[priv]", "/", 0},
		{"dispatcher", "/var/empty", smtp},
		{"lookup", "/", smtp},
		{"queue", d.path("spool"), queue},
		{"key", "/var/empty", smtp},
		{"control", "/var/empty", smtp},
	} {
		p, ok := family["opensmtpd: "+want.title]
		if !ok {
			t.Errorf("no process is called %q", want.title)
			continue
		}
		delete(family, p.title)
		if p.root != want.root {
			t.Errorf("%s: root directory %s, want %s", p.title, p.root, want.root)
		}
		if got, uid := p.status["Uid"], fmt.Sprint(want.uid); got != strings.Join([]string{uid, uid, uid, uid}, "\t") {
			t.Errorf("%s: uids %q, want %s", p.title, got, uid)
		}
		if want.uid == 0 {
			continue
		}
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if strings.Trim(p.status[set], "0") != "" {
				t.Errorf("%s: %s is %s, want no capabilities", p.title, set, p.status[set])
			}
		}
		if p.status["NoNewPrivs"] != "1" {
			t.Errorf("%s may gain privileges by executing a set-id program", p.title)
		}
		if p.status["Seccomp"] != "2" {
			t.Errorf("%s may make any system call", p.title)
		}
		if _, gid := ids(t, "_smtpd"); want.uid == smtp && strings.Trim(p.status["Groups"], " ") != fmt.Sprint(gid) && p.status["Groups"] != "" {
			t.Errorf("%s: groups %q", p.title, p.status["Groups"])
		}
	}
	for title := range family {
		t.Errorf("unexpected process %q", title)
	}
	status := d.run("", "", "smtpctl", "-v", "show", "status")
	for _, word := range []string{"landlock=abi:", "seccomp=kill", "no_new_privs=on", "capabilities=none"} {
		if n := strings.Count(status, word); n != 5 {
			t.Errorf("show status has %s %d times, want it of 5 roles:\n%s", word, n, status)
		}
	}
}

func TestWorkerRunsAsItsRecipient(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "run" mda "id -u; id -G; cat >/dev/null; echo $USER $HOME >who; id -u >>who; id -G >>who"
match from any for domain "example.org" action "run"
`)
	// A command runs in its user's home, which all tests share: the file's name is this test's own.
	d.configure(strings.ReplaceAll(d.read("smtpd.conf"), ">who", ">"+d.path("home/alice/who")))
	d.reload()
	d.send("Subject: x\n\nhello", "alice@example.org")
	d.wait(`mda delivery .*to=<alice@example\.org>.* result=Ok`)

	uid, _ := ids(t, "alice")
	lines := strings.Split(d.read("home/alice/who"), "\n")
	if !strings.HasPrefix(lines[0], "alice /") || lines[1] != fmt.Sprint(uid) {
		t.Errorf("the command ran as %q", lines[:2])
	}
	groups := strings.Fields(lines[2])
	slices.Sort(groups)
	if want := []string{"60711", "60721", "60722"}; !slices.Equal(groups, want) {
		t.Errorf("the command ran with the groups %q, want %q: all of its user's and no other", groups, want)
	}

	worker := d.role("delivery alice")
	if worker.status["NoNewPrivs"] != "0" || worker.status["Seccomp"] != "0" {
		t.Errorf("a worker's commands cannot be set-id programs: NoNewPrivs %s, Seccomp %s", worker.status["NoNewPrivs"], worker.status["Seccomp"])
	}
	if strings.Trim(worker.status["CapEff"], "0") != "" {
		t.Errorf("a worker has capabilities: %s", worker.status["CapEff"])
	}
	if got := strings.Fields(worker.status["Uid"]); got[0] != fmt.Sprint(uid) || got[2] != fmt.Sprint(uid) {
		t.Errorf("a worker has the uids %q, want %d", got, uid)
	}
}

// A command of a user gets the environment that is documented and no descriptor
// but the message, its output, and its errors.
func TestCommandOfAUserStartsClean(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, listen+`action "run" mda "env >$dir/home/alice/env; for f in /proc/self/fd/*; do readlink $f >/dev/null && echo ${f##*/}; done >$dir/home/alice/fds; cat >/dev/null"
match from any for domain "example.org" action "run"
`)
	d.prepare = func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "OPENSMTPD_TEST_SECRET=secret") }
	d.start()
	d.send("Subject: x\n\nhello", "alice@example.org")
	d.wait(`mda delivery .*to=<alice@example\.org>.* result=Ok`)
	var names []string
	for line := range strings.Lines(d.read("home/alice/env")) {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	for _, name := range names {
		if !slices.Contains([]string{"DOMAIN", "EXTENSION", "HOME", "LOCAL", "LOGNAME", "ORIGINAL_RECIPIENT", "PATH", "PWD",
			"RECIPIENT", "SENDER", "SHELL", "USER", "OLDPWD", "SHLVL", "_"}, name) {
			t.Errorf("the command's environment holds %s", name)
		}
	}
	if !slices.Contains(names, "HOME") || !slices.Contains(names, "SENDER") {
		t.Errorf("the command's environment is %q", names)
	}
	// The shell opens the output file, and the directory it lists, under numbers of 10 or
	// more or as the next free one: 3 is the glob's own.
	for fd := range strings.FieldsSeq(d.read("home/alice/fds")) {
		if n := atoi(t, fd); n > 2 && n < 10 && n != 3 {
			t.Errorf("descriptor %d is open in the command", n)
		}
	}
}

// reload makes the daemon read its configuration again and waits until it has.
func (d *daemon) reload() {
	d.t.Helper()
	d.signal(hangUp)
	d.wait(`configuration reloaded`)
}

// A worker that runs no command gets by without starting programs, and cannot.
func TestWorkerWithoutCommandsIsConfined(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveLMTP(l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	d := startDaemon(t, listen+`action "mbox" mbox
action "dir" maildir "$dir/home/%{user.username}/Maildir"
action "lmtp" lmtp "localhost:`+port+`"
match from any for domain "mbox.example.org" action "mbox"
match from any for domain "dir.example.org" action "dir"
match from any for domain "lmtp.example.org" action "lmtp"
`)
	for user, domain := range map[string]string{"alice": "mbox", "bob": "dir", "carol": "lmtp"} {
		// The second is beyond what is sent in a frame, so the worker gets a descriptor.
		for _, size := range []int{10, 1 << 20} {
			d.send("Subject: x\n\n"+strings.Repeat(strings.Repeat("x", 70)+"\n", size/71+1), user+"@"+domain+".example.org")
			d.wait(`mda delivery .*to=<` + user + `@` + domain + `\.example\.org>.* result=Ok`)
		}
		w := d.role("delivery " + user)
		if w.status["NoNewPrivs"] != "1" || w.status["Seccomp"] != "2" || strings.Trim(w.status["CapEff"], "0") != "" {
			t.Errorf("%s: NoNewPrivs %s, Seccomp %s, CapEff %s", domain, w.status["NoNewPrivs"], w.status["Seccomp"], w.status["CapEff"])
		}
	}
}

// serveLMTP takes mail (RFC 2033), one recipient a message, until the listener closes.
func serveLMTP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprint(c, "220 sink LMTP\r\n")
			text := false
			for s := bufio.NewScanner(c); s.Scan(); {
				switch verb, _, _ := strings.Cut(strings.ToUpper(s.Text()), " "); {
				case text && verb != ".":
				case verb == "DATA":
					text = true
					fmt.Fprint(c, "354 go on\r\n")
				default:
					text = false
					fmt.Fprint(c, "250 2.0.0 fine\r\n")
				}
			}
		}()
	}
}
