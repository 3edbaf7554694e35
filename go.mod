module github.com/opensmtpd/opensmtpd

go 1.26

require github.com/emersion/go-maildir v0.6.0
