// Command table-postgres answers tables of smtpd from a PostgreSQL database; see
// table-postgres(8).
package main

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/internal/tables/sqltable"
)

func main() { remote.Main(open) }

func open(_ string, c *remote.Conf) (remote.Source, error) {
	info := c.Get("conninfo")
	if info == "" {
		return nil, errors.New("conninfo is missing")
	}
	config, err := pgx.ParseConfig(info)
	if err != nil {
		return nil, errors.New("conninfo is not understood: write it as host=HOST user=USER password=PASSWORD dbname=NAME") // the cause may hold the password
	}
	return sqltable.New(stdlib.OpenDB(*config), c, sqltable.Options{Numbered: true})
}
