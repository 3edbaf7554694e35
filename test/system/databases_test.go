//go:build system

package system

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// database is a server that tables are kept in. It runs as carol, with its files below
// a directory of the daemon's, and listens on a local socket. It knows
//
//	alias        team, someone, else: alice; list@example.net: alice
//	domain       example.net
//	userinfo     alice
//	credentials  relay, who logs in with "secret"; out, the label that is relay's
//	source       $source
//	relayhost    example.com and the list: $url
type database struct {
	table   string // the table program: table-postgres and so on
	conf    string // of the program
	program func(t *testing.T) string
	prepare func(d *daemon) // makes the files
	args    []string
	ready   string         // a line of its output says that it serves
	stop    syscall.Signal // ends it in order
	fill    func(d *daemon)
}

// passwordHash is that of "secret".
const passwordHash = "$6$systemtest$BgW/V5BrozDDL8edEHuJWIkhz/Ku38EWiYXP/Pb.0SSxqmo0QzGsmzjTgD2ZnpifBSwv7fLfvwwLEFHdEbWpx1"

// rows are the statements that fill an SQL database.
const rows = `CREATE TABLE aliases (name VARCHAR(80), target VARCHAR(80));
INSERT INTO aliases VALUES ('team', 'alice'), ('someone', 'alice'), ('else', 'alice'), ('list@example.net', 'alice');
CREATE TABLE domains (name VARCHAR(80));
INSERT INTO domains VALUES ('example.net');
CREATE TABLE users (login VARCHAR(80), uid INT, gid INT, home VARCHAR(200));
INSERT INTO users VALUES ('alice', $uid, $uid, '$dir/home/alice');
CREATE TABLE logins (label VARCHAR(80), login VARCHAR(80), password VARCHAR(200));
INSERT INTO logins VALUES ('relay', 'relay', '` + passwordHash + `'), ('out', 'relay', 'secret');
CREATE TABLE sources (address VARCHAR(80));
INSERT INTO sources VALUES ('$source');
CREATE TABLE hosts (domain VARCHAR(80), url VARCHAR(200));
INSERT INTO hosts VALUES ('example.com', '$url');
`

// statements are the questions to an SQL database; KEY is its parameter.
const statements = `
query_alias       SELECT target FROM aliases WHERE name = KEY
query_domain      SELECT name FROM domains WHERE name = KEY
query_userinfo    SELECT uid, gid, home FROM users WHERE login = KEY
query_credentials SELECT login, password FROM logins WHERE label = KEY
query_relayhost   SELECT url FROM hosts WHERE domain = KEY
fetch_source      SELECT address FROM sources
fetch_relayhost   SELECT url FROM hosts
fetch_source_expire 1
fetch_relayhost_expire 1
timeout 2
`

// databases returns the servers by their names.
func databases() map[string]database {
	return map[string]database{
		"PostgreSQL": {
			table:   "postgres",
			conf:    "conninfo host=$dir/db user=mail password=secret dbname=postgres\n" + strings.ReplaceAll(statements, "KEY", "$1"),
			program: func(t *testing.T) string { return postgres(t, "postgres") },
			prepare: func(d *daemon) {
				d.write("db/password", "secret\n", "carol", 0o600)
				d.run("carol", "", postgres(d.t, "initdb"), "-D", d.path("db/data"), "-U", "mail", "-A", "scram-sha-256",
					"--pwfile", d.path("db/password"), "--no-sync", "--no-locale", "-E", "UTF8")
				d.run("carol", d.expandData(rows), postgres(d.t, "postgres"), "--single", "-j", "-D", d.path("db/data"), "postgres")
			},
			args:  []string{"-D", "$dir/db/data", "-k", "$dir/db", "-F", "-c", "listen_addresses=", "-c", "max_connections=20"},
			ready: "database system is ready to accept connections",
			stop:  syscall.SIGINT,
		},
		"MariaDB": {
			table:   "mysql",
			conf:    "host $dir/db/s\nusername mail\npassword secret\ndatabase mail\n" + strings.ReplaceAll(statements, "KEY", "?"),
			program: func(t *testing.T) string { return need(t, "mariadbd") },
			prepare: func(d *daemon) {
				d.run("carol", "", need(d.t, "mariadb-install-db"), "--no-defaults", "--datadir="+d.path("db/data"), "--skip-test-db",
					"--auth-root-authentication-method=normal", "--innodb-log-file-size=5M")
				d.run("carol", d.expandData("CREATE DATABASE mail;\nUSE mail;\n"+rows+
					"FLUSH PRIVILEGES;\nCREATE USER 'mail'@'localhost' IDENTIFIED BY 'secret';\nGRANT SELECT ON mail.* TO 'mail'@'localhost';\n"),
					need(d.t, "mariadbd"), "--no-defaults", "--datadir="+d.path("db/data"), "--bootstrap")
			},
			args: []string{"--no-defaults", "--datadir=$dir/db/data", "--socket=$dir/db/s", "--skip-networking", "--pid-file=$dir/db/pid",
				"--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=8M"},
			ready: "ready for connections",
			stop:  syscall.SIGTERM,
		},
		"Redis": {
			table: "redis",
			conf: "master unix:$dir/db/s\npassword secret\n" + `query_alias LRANGE alias:%s 0 -1
query_domain SISMEMBER domains %s
query_userinfo HMGET user:%s uid gid home
query_credentials HMGET login:%s login password
query_relayhost GET host:%s
fetch_source LRANGE sources 0 -1
fetch_relayhost LRANGE hosts 0 -1
fetch_source_expire 1
fetch_relayhost_expire 1
timeout 2
`,
			program: func(t *testing.T) string { return need(t, "redis-server") },
			args: []string{"--port", "0", "--unixsocket", "$dir/db/s", "--unixsocketperm", "777", "--dir", "$dir/db/data",
				"--requirepass", "secret", "--save", "3600 1"},
			ready: "(?i)ready to accept connections",
			stop:  syscall.SIGTERM,
			fill:  fillRedis,
		},
		"OpenLDAP": {
			table: "ldap",
			conf: "url ldapi://$dir/db/s\nusername cn=mail,dc=example,dc=org\npassword secret\nbasedn dc=example,dc=org\n" +
				`alias_filter (&(objectClass=nisMailAlias)(cn=%u))
alias_attributes rfc822MailMember
domain_filter (&(objectClass=domainRelatedObject)(associatedDomain=%u))
domain_attributes associatedDomain
userinfo_filter (&(objectClass=posixAccount)(uid=%u))
userinfo_attributes uidNumber, gidNumber, homeDirectory
auth_filter (&(objectClass=inetOrgPerson)(uid=%u))
credentials_filter (&(objectClass=inetOrgPerson)(cn=%u))
credentials_attributes uid, userPassword
relayhost_filter (&(objectClass=labeledURIObject)(description=%u))
relayhost_attributes labeledURI
fetch_relayhost_filter (objectClass=labeledURIObject)
fetch_relayhost_attributes labeledURI
fetch_relayhost_expire 1
fetch_source_filter (&(objectClass=ipHost)(cn=outgoing))
fetch_source_attributes ipHostNumber
fetch_source_expire 1
timeout 2
`,
			program: func(t *testing.T) string { return need(t, "slapd") },
			prepare: func(d *daemon) {
				d.write("db/slapd.conf", d.expandData(slapdConf), "carol", 0o600)
				d.run("carol", d.expandData(entries), need(d.t, "slapadd"), "-q", "-f", d.path("db/slapd.conf"))
			},
			args:  []string{"-d", "none", "-f", "$dir/db/slapd.conf", "-h", "ldapi://$escaped%2Fdb%2Fs"},
			ready: "slapd starting",
			stop:  syscall.SIGTERM,
		},
	}
}

// slapdConf is the configuration of OpenLDAP.
const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/misc.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
maxsize 10485760
suffix dc=example,dc=org
rootdn cn=mail,dc=example,dc=org
rootpw secret
directory $dir/db/data
dbnosync
`

// entries are the content of the directory.
const entries = `dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: cn=team,dc=example,dc=org
objectClass: nisMailAlias
cn: team
cn: someone
cn: else
cn: list@example.net
rfc822MailMember: alice

dn: associatedDomain=example.net,dc=example,dc=org
objectClass: account
objectClass: domainRelatedObject
uid: domain
associatedDomain: example.net

dn: uid=alice,dc=example,dc=org
objectClass: account
objectClass: posixAccount
uid: alice
cn: alice
uidNumber: $uid
gidNumber: $uid
homeDirectory: $dir/home/alice

dn: cn=out,dc=example,dc=org
objectClass: inetOrgPerson
cn: out
sn: out
uid: relay
userPassword: secret

dn: cn=outgoing,dc=example,dc=org
objectClass: device
objectClass: ipHost
cn: outgoing
ipHostNumber: $source

dn: cn=host,dc=example,dc=org
objectClass: device
objectClass: labeledURIObject
cn: host
description: example.com
labeledURI: $url
`

// postgres returns the path of a program of the newest PostgreSQL, none of which Debian
// puts into the PATH.
func postgres(t *testing.T, name string) string {
	t.Helper()
	paths, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skip("PostgreSQL is not installed")
	}
	return paths[len(paths)-1]
}

// fillRedis sends the commands that fill Redis.
func fillRedis(d *daemon) {
	d.t.Helper()
	c, err := net.Dial("unix", d.path("db/s"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		d.t.Fatal(err)
	}
	commands := d.expandData(`AUTH secret
RPUSH alias:team alice
RPUSH alias:someone alice
RPUSH alias:else alice
RPUSH alias:list@example.net alice
SADD domains example.net
HSET user:alice uid $uid gid $uid home $dir/home/alice
HSET login:relay login relay password ` + passwordHash + `
HSET login:out login relay password secret
RPUSH sources $source
SET host:example.com $url
RPUSH hosts $url
QUIT
`)
	if _, err := io.WriteString(c, strings.ReplaceAll(commands, "\n", "\r\n")); err != nil {
		d.t.Fatal(err)
	}
	if reply, err := io.ReadAll(c); err != nil || strings.Contains(string(reply), "-") {
		d.t.Fatalf("Redis answers %q, %v", reply, err)
	}
}

// expandData puts the facts of the daemon into what a database is filled with. All
// addresses of 127.0.0.0/8 are this host's.
func (d *daemon) expandData(s string) string {
	uid, _ := ids(d.t, "alice")
	return d.expand(strings.NewReplacer("$uid", fmt.Sprint(uid), "$source", strings.TrimSuffix(d.host, ".1")+".9",
		"$url", "smtp+tls://out@"+d.host+":587", "$escaped", strings.ReplaceAll(d.dir, "/", "%2F")).Replace(s))
}

// databaseServer is a database that runs.
type databaseServer struct {
	d    *daemon
	stop syscall.Signal
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// run starts the server and waits until it serves.
func (db *database) run(d *daemon) *databaseServer {
	t := d.t
	t.Helper()
	args := make([]string, len(db.args))
	for i, a := range db.args {
		args[i] = d.expandData(a)
	}
	s := &databaseServer{d: d, stop: db.stop, cmd: d.command("carol", db.program(t), args...), done: make(chan struct{})}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = s.cmd.Stdout
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		d.keep(out, db.table+" server: ")
		_ = s.cmd.Wait() // the log tells why it has ended
	}()
	t.Cleanup(s.end)
	d.wait("^" + db.table + " server: .*" + db.ready)
	return s
}

// signal sends a signal to the server and its children.
func (s *databaseServer) signal(sig syscall.Signal) {
	s.d.t.Helper()
	pid := s.cmd.Process.Pid
	if err := syscall.Kill(pid, sig); err != nil {
		s.d.t.Fatal(err)
	}
	for _, child := range children(s.d.t, pid) {
		_ = syscall.Kill(atoi(s.d.t, child), sig) // it may have ended
	}
}

// end ends the server in order.
func (s *databaseServer) end() {
	_ = s.cmd.Process.Signal(s.stop) // it may have ended by now
	select {
	case <-s.done:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.done
		s.d.t.Errorf("%s did not end", s.cmd.Path)
	}
}
