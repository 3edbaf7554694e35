module github.com/opensmtpd/opensmtpd

go 1.26
