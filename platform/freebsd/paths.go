package freebsd

import "github.com/opensmtpd/opensmtpd/platform"

// paths is where the files of a mail server go by hier(7), and the ports tree below /usr/local.
// A package that thinks otherwise sets Config.Paths.
func paths() platform.Paths {
	return platform.Paths{
		Config:   "/usr/local/etc/mail/smtpd.conf",
		Spool:    "/var/spool/smtpd",
		Run:      "/var/run",
		Empty:    "/var/empty",
		Libexec:  "/usr/local/libexec/opensmtpd",
		Mail:     "/var/mail",
		Aliases:  "/etc/mail/aliases",
		MailName: "/usr/local/etc/mail/mailname",
		Shell:    "/bin/sh",
		DefPath:  "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin",
	}
}
