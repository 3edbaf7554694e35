module github.com/opensmtpd/opensmtpd

go 1.26

require github.com/go-crypt/crypt v0.14.15

require (
	github.com/go-crypt/x v0.4.16 // indirect
	golang.org/x/sys v0.45.0 // indirect
)
