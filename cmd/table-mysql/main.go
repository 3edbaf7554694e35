// Command table-mysql answers tables of smtpd from a MySQL or MariaDB database; see
// table-mysql(8).
package main

import (
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/internal/tables/sqltable"
)

func main() { remote.Main(open) }

// connectTimeout bounds one connection.
const connectTimeout = 5 * time.Second

func open(_ string, c *remote.Conf) (remote.Source, error) {
	config, err := configure(c)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sqltable.New(sql.OpenDB(connector), c, sqltable.Options{})
}

// configure reads how to connect.
func configure(c *remote.Conf) (*mysql.Config, error) {
	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = c.Get("username"), c.Get("password"), c.Get("database")
	config.InterpolateParams = true // one round trip for each question
	config.Timeout = connectTimeout
	config.Logger = silent{}
	host, port := c.Or("host", "localhost"), c.Int("port", 1, 3306)
	switch path := strings.TrimPrefix(host, "unix:"); {
	case strings.HasPrefix(path, "/"):
		config.Net, config.Addr = "unix", path
	default:
		config.Net, config.Addr = "tcp", net.JoinHostPort(host, fmt.Sprint(port))
	}
	switch mode := c.Or("tls", "no"); mode {
	case "no":
	case "yes":
		config.TLS = &tls.Config{ServerName: host}
	case "no-verify":
		config.TLS = &tls.Config{InsecureSkipVerify: true} // as the operator says
	default:
		return nil, fmt.Errorf("tls %s: want yes, no-verify or no", mode)
	}
	if config.DBName == "" {
		return nil, errors.New("database is missing")
	}
	return config, nil
}

// silent is a log for a driver whose errors are returned as well.
type silent struct{}

// Print implements mysql.Logger.
func (silent) Print(...any) {}
