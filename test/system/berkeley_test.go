//go:build system

package system

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Databases that the library of Berkeley DB has made are tables, also when only root
// may read them, and are taken over when another is put in their place.
func TestDatabasesOfBerkeleyDBAreTables(t *testing.T) {
	t.Parallel()
	need(t, "db5.3_load")
	for _, kind := range []string{"hash", "btree"} {
		for name, end := range map[string]string{"": "", " with ends of strings": `\00`} { // makemap of OpenSMTPD writes them
			t.Run(kind+name, func(t *testing.T) {
				t.Parallel()
				d := newDaemon(t, listen+`table people db:$dir/people.db
table domains db:$dir/domains.db
action "deliver" maildir "$dir/home/%{user.username}/Maildir" virtual <people>
match from any for domain <domains> action "deliver"
`)
				load := func(file string, rows ...string) {
					t.Helper()
					var in strings.Builder
					for i := 0; i < len(rows); i += 2 {
						fmt.Fprintf(&in, "%s%s\n%s%s\n", rows[i], end, rows[i+1], end)
					}
					d.run("", in.String(), "db5.3_load", "-T", "-t", kind, d.path(file+".new"))
					if err := os.Chmod(d.path(file+".new"), 0o600); err != nil {
						t.Fatal(err)
					}
					if err := os.Rename(d.path(file+".new"), d.path(file)); err != nil {
						t.Fatal(err)
					}
				}
				var people []string // enough for many pages
				for i := range 3000 {
					people = append(people, fmt.Sprintf("user%d@example.org", i), "alice")
				}
				long := strings.Repeat("carol, ", 280) + "bob" // a value that pages of its own hold
				people = append(people, "list@example.org", long, "@example.net", "carol")
				load("people.db", people...)
				load("domains.db", "example.org", "<set>", "*.example.net", "<set>", "example.net", "<set>")
				d.start()
				for _, rcpt := range []string{"user0@example.org", "User2999@Example.org", "user1500+tag@example.org"} {
					d.send("Subject: to alice\n\ntext\n", rcpt)
				}
				d.mail("alice", 3)
				d.send("Subject: to the list\n\ntext\n", "list@example.org")
				d.mail("bob", 1)
				d.send("Subject: to anybody\n\ntext\n", "anybody@example.net")
				d.mail("carol", 2)
				d.connect().talk("EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250",
					"RCPT TO:<user3000@example.org>", "^550 5.1.1 ", "RCPT TO:<user1@example.com>", "^550 5.7.1 ")

				load("people.db", "new@example.org", "bob")
				d.wait(`table "people": .* has changed and was read again`)
				d.send("Subject: to bob\n\ntext\n", "new@example.org")
				d.mail("bob", 2)
				d.write("people.db.new", d.read("people.db")[:100], "", 0o600) // not whole
				if err := os.Rename(d.path("people.db.new"), d.path("people.db")); err != nil {
					t.Fatal(err)
				}
				d.wait(`table "people" stays as it was: `)
				d.send("Subject: to bob again\n\ntext\n", "new@example.org")
				d.mail("bob", 3)
			})
		}
	}
}
