package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// buildSmtpctl makes the program that completion asks, and returns its directory.
func buildSmtpctl(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", "../cmd/smtpctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, cmd)
	return dir
}

// What a shell would offer where the cursor stands, after the last word.
func TestBashCompletes(t *testing.T) {
	t.Parallel()
	bash, bin := tool(t, "bash"), buildSmtpctl(t)
	// compopt works within a completion alone: here it tells what it was asked for.
	const script = `
. completion/bash
compopt() { extra="$*"; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=() extra=
f=$(complete -p "$1") f=${f#complete -F } f=${f% *}
"$f" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
echo "${COMPREPLY[*]}|$extra"`
	for _, tt := range []struct{ line, want string }{
		{"smtpctl pause ", "envelope mda mta smtp|"},
		{"smtpctl show st", "stats status|"},
		{"smtpctl config convert ", "|-o default"},
		{"smtpctl -s ", "|-o default"},
		{"smtpctl trace sm", "smtp|"},
		{"smtpd s", "service|"},
		{"smtpd -", "-d -F -h -n -v -D -f -o -P -T|"},
		{"smtpd -n -f ", "|-o default"},
		{"smtpd -o sa", "sandbox=off sandbox=trace|"},
		{"smtpd -o sp", "spool=|-o nospace"},
		{"smtpd -o sandbox = t", "trace|"}, // as bash splits it
		{"smtpd -o spool = /v", "|-o dirnames"},
		{"smtpd -P m", "mda mta|"},
		{"smtpd -T sc", "scheduler|"},
		{"smtpd service st", "start stop status|"},
		{"smtpd quickstart ", "|-o dirnames"},
		{"smtp -", "-a -C -F -h -H -n -S -s -T -v|"},
		{"smtp -T no", "nosni noverify|"},
		{"smtp -a ", "|-o default"},
	} {
		cmd := exec.Command(bash, append([]string{"--norc", "-uc", script, "bash"}, strings.Split(tt.line, " ")...)...)
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		if got := strings.TrimSuffix(run(t, cmd), "\n"); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestFishCompletes(t *testing.T) {
	t.Parallel()
	fish, bin := tool(t, "fish"), buildSmtpctl(t)
	for _, tt := range []struct{ line, want string }{
		{"smtpctl pause m", "mda\tstop local deliveries\nmta\tstop relaying\n"},
		{"smtpd service sta", "start\nstatus\n"},
		{"smtpd -P s", "smtp\n"},
		{"smtp -T nos", "nosni\tTLS\n"},
	} {
		cmd := exec.Command(fish, "--no-config", "-c", `source completion/fish; complete -C $argv[1]`, tt.line)
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		got := run(t, cmd)
		for _, line := range strings.SplitAfter(tt.want, "\n") {
			word, _, _ := strings.Cut(line, "\t")
			if !strings.Contains(got, strings.TrimSuffix(word, "\n")) {
				t.Errorf("%q: %q lacks %q", tt.line, got, line)
			}
		}
	}
}

func TestZshReadsItsCompletion(t *testing.T) {
	t.Parallel()
	run(t, exec.Command(tool(t, "zsh"), "-fn", "completion/zsh"))
}

// Every option of the programs is offered by every shell.
func TestCompletionKnowsEveryOption(t *testing.T) {
	t.Parallel()
	bash, zsh, fish := read(t, "completion/bash"), read(t, "completion/zsh"), read(t, "completion/fish")
	for _, name := range []string{"smtpd", "smtp"} {
		folder := map[string]string{"smtpd": "opensmtpd", "smtp": "smtp"}[name]
		spec := regexp.MustCompile(`getopt\.Parse\(args, "([^"]+)"\)`).FindStringSubmatch(read(t, filepath.Join("../cmd", folder, "main.go")))
		if spec == nil {
			t.Fatalf("%s: its options are not found", name)
		}
		offered := regexp.MustCompile(`(?s)_opensmtpd_` + name + `\(\) \{.*?_opensmtpd_options (\w+)`).FindStringSubmatch(bash)
		section := regexp.MustCompile(`(?s)\n` + name + `\)\n.*?\n\t;;`).FindString(zsh)
		for _, letter := range strings.ReplaceAll(spec[1], ":", "") {
			if letter == 'x' {
				continue // for the daemon's own processes
			}
			if offered == nil || !strings.ContainsRune(offered[1], letter) {
				t.Errorf("bash does not know %s -%c", name, letter)
			}
			if !strings.Contains(section, "-"+string(letter)+"[") {
				t.Errorf("zsh does not know %s -%c", name, letter)
			}
			if !strings.Contains(fish, "complete -c "+name+" -s "+string(letter)+" ") {
				t.Errorf("fish does not know %s -%c", name, letter)
			}
		}
	}
}
