package darwin

import "github.com/opensmtpd/opensmtpd/platform"

// paths is where the files of a mail server go by macOS, as its own Postfix does.
// A package that thinks otherwise sets Config.Paths.
func paths() platform.Paths {
	return platform.Paths{
		Config:   "/etc/mail/smtpd.conf",
		Spool:    "/var/spool/smtpd",
		Run:      "/var/run",
		Empty:    "/var/empty",
		Libexec:  "/usr/local/libexec/opensmtpd",
		Mail:     "/var/mail",
		Aliases:  "/etc/aliases",
		MailName: "/etc/mail/mailname",
		Shell:    "/bin/sh",
		DefPath:  "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
	}
}

// missing is what Confine does not do, for Guarantees.
func missing() []string {
	return []string{"sandbox: off: the system has no public interface for it"}
}
