module github.com/opensmtpd/opensmtpd

go 1.26.0

require (
	github.com/emersion/go-maildir v0.6.0
	golang.org/x/sys v0.49.0
)
