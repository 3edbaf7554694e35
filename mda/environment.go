package mda

// Environment returns the whole environment of a command: nothing of ours is
// inherited. The shell and the path are the system's defaults. USER and LOGNAME
// name the user of the userbase, whoever the command runs as; SENDER is empty
// for the null sender; EXTENSION is there only with a subaddress.
func (d *Delivery) Environment(shell, path string) []string {
	env := []string{
		"PATH=" + path,
		"SHELL=" + shell,
		"HOME=" + d.Home,
		"USER=" + d.User,
		"LOGNAME=" + d.User,
		"LOCAL=" + d.Rcpt.Local,
		"DOMAIN=" + d.Rcpt.Domain,
		"ORIGINAL_RECIPIENT=" + d.Rcpt.String(),
		"RECIPIENT=" + d.Dest.String(),
		"SENDER=" + d.Sender.String(),
	}
	if d.Subaddress != "" {
		env = append(env, "EXTENSION="+d.Subaddress)
	}
	return env
}
