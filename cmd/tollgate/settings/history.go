package settings

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"tollgate/policy/keys/smallfile"
	"tollgate/policy/usage/clickhouse"
)

// The flags that say where the history of usage is.
const (
	ClickHouseFlag         = "usage-clickhouse"
	ClickHousePasswordFlag = "usage-clickhouse-password-file"
)

// HistoryFlags adds them.
func (s *Shared) HistoryFlags(f *pflag.FlagSet, use string) {
	f.StringVar(&s.ClickHouse, ClickHouseFlag, "", "URL of a ClickHouse "+use+": http or https://[USER@]HOST[:PORT][/DATABASE]; none if empty")
	f.StringVar(&s.ClickHousePasswordFile, ClickHousePasswordFlag, "", "file with that user's password")
}

// CheckHistory refuses a password for nobody, and a URL that is none.
func (s *Shared) CheckHistory() error {
	if s.ClickHouse == "" {
		if s.ClickHousePasswordFile != "" {
			return errors.New("--" + ClickHousePasswordFlag + ": there is no --" + ClickHouseFlag)
		}
		return nil
	}
	if _, err := clickhouse.Open(s.ClickHouse, ""); err != nil {
		return fmt.Errorf("--%s: %w", ClickHouseFlag, err)
	}
	return nil
}

// History returns what reaches the ClickHouse that has the history of usage, nil if there is none.
func (s *Shared) History() (*clickhouse.Client, error) {
	if err := s.CheckHistory(); err != nil || s.ClickHouse == "" {
		return nil, err
	}
	password := ""
	if s.ClickHousePasswordFile != "" {
		data, err := smallfile.Read(s.ClickHousePasswordFile, maxSmall)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", ClickHousePasswordFlag, err)
		}
		if password = strings.TrimRight(string(data), "\r\n"); password == "" || strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("--%s: %s is empty, or has characters that no header can have", ClickHousePasswordFlag, s.ClickHousePasswordFile)
		}
	}
	return clickhouse.Open(s.ClickHouse, password)
}
