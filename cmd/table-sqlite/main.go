//go:build !(netbsd && arm64)

// Command table-sqlite answers tables of smtpd from an SQLite database; see
// table-sqlite(8).
package main

import (
	"database/sql"
	"errors"
	"net/url"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/internal/tables/sqltable"
)

func main() { remote.Main(open) }

// open opens the database for reading. It is a file of others: while one of them
// writes, questions wait for up to five seconds.
func open(_ string, c *remote.Conf) (remote.Source, error) {
	path := c.Get("dbpath")
	if path == "" {
		return nil, errors.New("dbpath is missing")
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	return sqltable.New(db, c, sqltable.Options{})
}
