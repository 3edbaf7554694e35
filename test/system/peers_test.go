//go:build system

package system

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// postfixMaster has a port for each way of mail to Postfix, and a transport for each
// way back; see ways.
const postfixMaster = `
$host:2025 inet n - n - - smtpd
$host:2465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
$host:2587 inet n - n - - smtpd -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject
plain     unix - - n - - smtp -o smtp_tls_security_level=none
starttls  unix - - n - - smtp
implicit  unix - - n - - smtp -o smtp_tls_wrappermode=yes
auth      unix - - n - - smtp -o smtp_sasl_auth_enable=yes
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
local     unix - n n - - local
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
`

const postfixMain = `
compatibility_level = 3.6
queue_directory = $dir/postfix/queue
data_directory = $dir/postfix/data
maillog_file = /dev/stdout
myhostname = postfix.example.net
mydestination =
inet_interfaces = all
inet_protocols = ipv4
alias_maps =
alias_database =
smtputf8_enable = no
relay_domains = plain.example.org, starttls.example.org, implicit.example.org, auth.example.org
transport_maps = inline:{
	{ plain.example.org = plain:[$host]:3025 },
	{ starttls.example.org = starttls:[$host]:3025 },
	{ implicit.example.org = implicit:[$host]:3465 },
	{ auth.example.org = auth:[$host]:3587 } }
smtpd_tls_security_level = may
smtpd_tls_cert_file = $dir/mx.crt
smtpd_tls_key_file = $dir/mx.key
smtpd_sasl_type = dovecot
smtpd_sasl_path = $dir/sasl
smtp_tls_security_level = verify
smtp_tls_verify_cert_match = hostname
smtp_tls_CAfile = $dir/mx.crt
smtp_sasl_password_maps = inline:{ { [$host]:3587 = alice:secret } }
smtp_sasl_security_options = noanonymous
`

// startPostfix starts a Postfix that relays between our daemon and itself.
func (d *daemon) startPostfix() {
	t := d.t
	t.Helper()
	need(t, "postfix")
	d.startDovecot() // which knows the passwords
	d.mkdir("postfix/queue", "", 0o755)
	d.mkdir("postfix/data", "postfix", 0o755)
	d.mkdir("postfix/etc", "", 0o755)
	d.write("postfix/etc/main.cf", d.expand(postfixMain), "", 0o644)
	d.write("postfix/etc/master.cf", d.expand(postfixMaster), "", 0o644)
	cmd := exec.Command("postfix", "-c", d.path("postfix/etc"), "start-fg")
	d.startPeer("postfix: ", cmd, func() error {
		return exec.Command("postfix", "-c", d.path("postfix/etc"), "stop").Run()
	})
}

const eximConf = `
primary_hostname = exim.example.net
spool_directory = $dir/exim
log_file_path = $dir/exim/%slog
pid_file_path = $dir/exim/pid
keep_environment = LD_LIBRARY_PATH
local_interfaces = $host
daemon_smtp_ports = 2025 : 2465 : 2587
tls_on_connect_ports = 2465
tls_advertise_hosts = *
tls_certificate = $dir/mx.crt
tls_privatekey = $dir/exim/mx.key
exim_path = $exim
acl_smtp_rcpt = rcpt
never_users =
begin acl
rcpt:
  deny condition = ${if eq{$received_port}{2587}}
       !authenticated = *
  accept domains = *.example.org
begin routers
plain:
  driver = manualroute
  domains = plain.example.org
  transport = plain
  route_list = * $host
  self = send
starttls:
  driver = manualroute
  domains = starttls.example.org
  transport = starttls
  route_list = * $host
  self = send
implicit:
  driver = manualroute
  domains = implicit.example.org
  transport = implicit
  route_list = * $host
  self = send
auth:
  driver = manualroute
  domains = auth.example.org
  transport = auth
  route_list = * $host
  self = send
begin transports
plain:
  driver = smtp
  port = 3025
  hosts_avoid_tls = *
starttls:
  driver = smtp
  port = 3025
  hosts_require_tls = *
  tls_verify_certificates = $dir/mx.crt
implicit:
  driver = smtp
  port = 3465
  protocol = smtps
  tls_verify_certificates = $dir/mx.crt
auth:
  driver = smtp
  port = 3587
  hosts_require_auth = *
  tls_verify_certificates = $dir/mx.crt
begin retry
* * F,1h,1s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_advertise_condition = ${if def:tls_in_cipher}
  server_condition = ${if and{{eq{$auth2}{alice}}{eq{$auth3}{secret}}}}
  server_set_id = $auth2
  client_send = ^alice^secret
`

// startExim starts an Exim that relays between our daemon and itself. Its package
// conflicts with those of other servers, so it was unpacked beside them.
func (d *daemon) startExim() {
	t := d.t
	t.Helper()
	root := os.Getenv("SYSTEM_TEST_PEERS")
	exim := filepath.Join(root, "usr/sbin/exim4")
	if root == "" || !exists(exim) {
		t.Skip("exim4 is not unpacked, see test/all")
	}
	d.mkdir("exim", "Debian-exim", 0o755)
	d.write("exim/mx.key", d.read("mx.key"), "Debian-exim", 0o600)
	d.write("exim.conf", strings.ReplaceAll(d.expand(eximConf), "$exim", exim), "", 0o644)
	cmd := exec.Command(exim, "-bdf", "-q5s", "-C", d.path("exim.conf"))
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(root, "usr/lib/x86_64-linux-gnu"))
	t.Cleanup(func() {
		if text, err := os.ReadFile(d.path("exim/mainlog")); err == nil && t.Failed() {
			t.Logf("Exim's log:\n%s", text)
		}
	})
	d.startPeer("exim: ", cmd, func() error { return cmd.Process.Signal(syscall.SIGTERM) })
}

// startPeer starts another mail server, whose log goes to ours, and waits until it
// listens. stop ends it.
func (d *daemon) startPeer(prefix string, cmd *exec.Cmd, stop func() error) {
	t := d.t
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.keep(out, prefix)
		_ = cmd.Wait() // the log tells why it has ended
	}()
	t.Cleanup(func() {
		_ = stop() // it may have ended by now
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
		}
	})
	d.await("a server on port 2025", func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort(d.host, "2025"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}
