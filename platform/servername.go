package platform

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
)

// ServerName returns the name of this host: the first line of the mailname file,
// else the host name, completed by the resolver when it has no dot.
func (p Paths) ServerName() (string, error) {
	if b, err := os.ReadFile(p.MailName); err == nil {
		line, _, _ := bytes.Cut(b, []byte("\n"))
		if name := strings.TrimSpace(string(line)); name != "" {
			return name, nil
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the name of this host: %w; write it into %s", err, p.MailName)
	}
	if !strings.Contains(name, ".") {
		if full, err := net.LookupCNAME(name); err == nil && full != "" {
			return strings.TrimSuffix(full, "."), nil
		}
	}
	return name, nil
}
