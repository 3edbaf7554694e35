//go:build pam && cgo

// Command auth-pam checks a user's password by PAM, for the daemon, which is built
// without C. It is a program of its own because PAM modules run in the process that
// asks, as root, and some of them start threads, leak or crash.
//
//	CGO_ENABLED=1 go build -tags pam ./cmd/auth-pam
//
// Installed as auth-pam beside the mail.* programs it takes the place of the
// system's shadow file for "auth" listeners. Input and exit status are those of package
// platform/authprogram; the PAM service is "smtpd".
package main

/*
#cgo LDFLAGS: -lpam
#include <security/pam_appl.h>
#include <stdlib.h>
#include <string.h>

// answer gives the password to the one question without an echo. Any other question
// cannot be answered.
static int answer(int n, const struct pam_message **questions, struct pam_response **answers, void *password) {
	if (n <= 0 || n > PAM_MAX_NUM_MSG)
		return PAM_CONV_ERR;
	struct pam_response *r = calloc(n, sizeof *r);
	if (r == NULL)
		return PAM_BUF_ERR;
	for (int i = 0; i < n; i++) {
		switch (questions[i]->msg_style) {
		case PAM_PROMPT_ECHO_OFF:
			if ((r[i].resp = strdup(password)) != NULL)
				continue;
			break;
		case PAM_TEXT_INFO:
		case PAM_ERROR_MSG:
			continue;
		}
		for (int j = 0; j < i; j++)
			free(r[j].resp);
		free(r);
		return PAM_CONV_ERR;
	}
	*answers = r;
	return PAM_SUCCESS;
}

// check asks whether the password is the user's and whether the account may be used.
static int check(const char *service, const char *user, char *password) {
	struct pam_conv conversation = { answer, password };
	pam_handle_t *h = NULL;
	int r = pam_start(service, user, &conversation, &h);
	if (r != PAM_SUCCESS)
		return r;
	r = pam_authenticate(h, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
	if (r == PAM_SUCCESS)
		r = pam_acct_mgmt(h, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
	pam_end(h, r);
	return r;
}
*/
import "C"

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"unsafe"
)

// service is the name under which PAM is configured, in /etc/pam.d.
const service = "smtpd"

// maxInput bounds what is read, in bytes.
const maxInput = 1024

// Exit statuses.
const (
	right = iota
	refused
	unknown
)

func main() { os.Exit(run()) }

func run() int {
	input, err := io.ReadAll(io.LimitReader(os.Stdin, maxInput))
	fields := bytes.Split(input, []byte{0})
	if err != nil || len(fields) != 3 || len(fields[2]) != 0 || len(fields[0]) == 0 {
		fmt.Fprintln(os.Stderr, "want the user and the password on standard input, a NUL behind each")
		return unknown
	}
	user, password := C.CString(string(fields[0])), C.CString(string(fields[1]))
	name := C.CString(service)
	defer func() {
		for _, s := range []*C.char{user, password, name} {
			C.free(unsafe.Pointer(s))
		}
	}()
	switch r := C.check(name, user, password); r {
	case C.PAM_SUCCESS:
		return right
	case C.PAM_AUTH_ERR, C.PAM_USER_UNKNOWN, C.PAM_MAXTRIES, C.PAM_ACCT_EXPIRED, C.PAM_PERM_DENIED,
		C.PAM_NEW_AUTHTOK_REQD, C.PAM_CRED_EXPIRED, C.PAM_AUTHTOK_EXPIRED:
		return refused
	default:
		fmt.Fprintln(os.Stderr, C.GoString(C.pam_strerror(nil, r)))
		return unknown
	}
}
