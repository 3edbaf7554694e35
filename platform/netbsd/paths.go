package netbsd

import "github.com/opensmtpd/opensmtpd/platform"

// paths is where the files of a mail server go by hier(7), and pkgsrc below /usr/pkg.
// A package that thinks otherwise sets Config.Paths.
func paths() platform.Paths {
	return platform.Paths{
		Config:   "/usr/pkg/etc/smtpd.conf",
		Spool:    "/var/spool/smtpd",
		Run:      "/var/run",
		Empty:    "/var/chroot/smtpd",
		Libexec:  "/usr/pkg/libexec/opensmtpd",
		Mail:     "/var/mail",
		Aliases:  "/etc/mail/aliases",
		MailName: "/usr/pkg/etc/mailname",
		Shell:    "/bin/sh",
		DefPath:  "/sbin:/bin:/usr/sbin:/usr/bin:/usr/pkg/sbin:/usr/pkg/bin",
	}
}

// missing is what Confine does not do, for Guarantees.
func missing() []string {
	return []string{"system call filter: off: the system has none", "file access rules: off: the system has none"}
}
