package proto

import "slices"

// Subsystems are the parts whose detail is logged by smtpd -T and smtpctl trace.
var Subsystems = []string{"bounce", "expand", "lookup", "mda", "queue", "scheduler", "smtp", "all"}

// Subsystem returns which of Subsystems a name means, or "". Two names that
// OpenSMTPD 7 has stand for the parts that do their work here.
func Subsystem(name string) string {
	switch name {
	case "rules":
		return "expand"
	case "tables":
		return "lookup"
	}
	if slices.Contains(Subsystems, name) {
		return name
	}
	return ""
}
