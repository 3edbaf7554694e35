package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/getopt"
)

//go:embed quickstart.conf
var quickstartConf []byte

// nobody is the uid and gid that quickstart takes when root runs it: it needs no
// privileges and wants none.
const nobody = 65534

// quickstart runs the daemon as an ordinary user, with an embedded configuration
// and all its files below one directory.
func quickstart(args []string) int {
	uid := os.Geteuid()
	if uid == 0 {
		uid = nobody
	}
	port, dir := "2525", filepath.Join(os.TempDir(), fmt.Sprintf("opensmtpd-quickstart-%d", uid))
	options, rest, err := getopt.Parse(args, "p:")
	if err == nil && len(rest) > 1 {
		err = fmt.Errorf("unexpected argument %q", rest[1])
	}
	for _, o := range options {
		if n, perr := strconv.ParseUint(o.Arg, 10, 16); perr != nil || n == 0 {
			err = fmt.Errorf("-p %s: want a port number", o.Arg)
		}
		port = o.Arg
	}
	if err != nil {
		return fail(fmt.Errorf("quickstart: %w\n%s", err, usageText))
	}
	if len(rest) == 1 {
		dir = rest[0]
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fail(err)
	}
	if err := quickstartDir(dir, uid); err != nil {
		return fail(fmt.Errorf("quickstart: %w", err))
	}
	conf := filepath.Join(dir, "smtpd.conf")
	if err := os.WriteFile(conf, quickstartConf, 0o644); err != nil {
		return fail(fmt.Errorf("quickstart: %w", err))
	}
	maildir := filepath.Join(dir, "Maildir")
	fmt.Printf("Mail sent to any address by way of 127.0.0.1 port %s is delivered to\n\t%s\n"+
		"Try:\n\tswaks --server 127.0.0.1:%s --to you@example.org\nCtrl-C ends it.\n", port, maildir, port)
	return serve(&flags{
		foreground: true, stderr: true, config: conf,
		macros: []string{
			"port=" + port, "user=owner",
			fmt.Sprintf("owner=%q", fmt.Sprintf("%d:%d:%s", os.Geteuid(), os.Getegid(), dir)),
			fmt.Sprintf("maildir=%q", maildir),
		},
		dirs: map[string]string{"spool": filepath.Join(dir, "spool"), "run": filepath.Join(dir, "run")},
	})
}

// quickstartDir makes the directory of uid and gives up root. Root gives away only a
// directory that it has made here and now, and nobody trusts one that another user made
// or may write to: what is written there could go elsewhere.
func quickstartDir(dir string, uid int) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o755)
	made := err == nil
	if errors.Is(err, os.ErrExist) {
		err = ownDir(dir, uid)
	}
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	if made {
		if err := os.Lchown(dir, nobody, nobody); err != nil {
			return err
		}
	}
	if err := syscall.Setgroups([]int{nobody}); err != nil {
		return err
	}
	if err := syscall.Setgid(nobody); err != nil {
		return err
	}
	if err := syscall.Setuid(nobody); err != nil {
		return err
	}
	if _, err := os.ReadDir(dir); err != nil {
		return fmt.Errorf("%w; quickstart runs as an ordinary user (uid %d), who must be able to reach the directory and own it: name a new one", err, nobody)
	}
	return nil
}

// ownDir makes sure that a directory is the user's and nobody else can write to it.
func ownDir(dir string, uid int) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || !ok || int(st.Uid) != uid || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is no directory of uid %d that only he can write to: name another one", dir, uid)
	}
	return nil
}
