package client

import (
	"strings"
	"testing"
)

// What a server offers is bounded and makes sense, whatever it says, and
// saying it twice changes nothing.
func FuzzExtensions(f *testing.F) {
	for _, s := range []string{
		"SIZE 35882577\nAUTH PLAIN LOGIN\nLIMITS MAILMAX=5 RCPTMAX=100 RCPTDOMAINMAX=1", "auth=LOGIN\nRequireTLS\nSTARTTLS", "SIZE -1\nSIZE 99999999999999999999",
		"LIMITS MAILMAX=0 RCPTMAX=-1 X", "\n \n=", "AUTH " + strings.Repeat("X ", 100),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var e Extensions
		lines := strings.Split(in, "\n")
		for _, line := range lines {
			e.add(line)
		}
		if len(e.Auth) > maxMechanisms || e.MaxSize < 0 || e.MaxMails < 0 || e.MaxRcpts < 0 || e.MaxDomains < 0 || e.MaxSize > 0 && !e.Size {
			t.Errorf("%+v", e)
		}
		for _, m := range e.Auth {
			if m != strings.ToUpper(m) || m == "" || strings.ContainsAny(m, " \t") {
				t.Errorf("mechanism %q", m)
			}
		}
		again := e
		again.Auth = nil
		for _, line := range lines {
			again.add(line)
		}
		if again.StartTLS != e.StartTLS || again.RequireTLS != e.RequireTLS || again.Size != e.Size || again.MaxMails != e.MaxMails {
			t.Errorf("said twice it means %+v instead of %+v", again, e)
		}
	})
}
