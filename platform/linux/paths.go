package linux

import "github.com/opensmtpd/opensmtpd/platform"

// paths is where distributions put the files of a mail server, by the Filesystem
// Hierarchy Standard 3.0. A package that thinks otherwise sets Config.Paths.
func paths() platform.Paths {
	return platform.Paths{
		Config:   "/etc/smtpd.conf",
		Spool:    "/var/spool/smtpd",
		Run:      "/run",
		Empty:    "/var/empty",
		Libexec:  "/usr/libexec/opensmtpd",
		Mail:     "/var/mail",
		Aliases:  "/etc/aliases",
		MailName: "/etc/mailname",
		Shell:    "/bin/sh",
		DefPath:  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

// systemdUsers are the signs that systemd knows users of its own: its home service
// runs, or user records were dropped in (systemd-userdbd.service(8)).
func systemdUsers() []string {
	return []string{
		"/run/systemd/userdb/io.systemd.Home",
		"/etc/userdb/*.user",
		"/run/userdb/*.user",
		"/usr/lib/userdb/*.user",
	}
}
