module github.com/opensmtpd/opensmtpd

go 1.26.0

require (
	blitiri.com.ar/go/spf v1.6.0
	github.com/emersion/go-maildir v0.6.0
	github.com/emersion/go-milter v0.5.0
	github.com/emersion/go-msgauth v0.7.0
	github.com/go-crypt/crypt v0.14.15
	github.com/kardianos/service v1.3.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/emersion/go-message v0.18.2 // indirect
	golang.org/x/crypto v0.58.0 // indirect
)

require (
	github.com/go-crypt/x v0.4.16 // indirect
	github.com/klauspost/compress v1.18.6
	github.com/miekg/dns v1.1.73
	golang.org/x/net v0.62.0
)
