package storage

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestPasswordsAreNotShown(t *testing.T) {
	none := func(string) string { return "" }
	for _, raw := range []string{
		"redis://me:hunter2@db:6379/0",
		"rediss://hunter2@db",
		"redis://:hun@ter2@db",
		"redis://:hun/ter2@db",
		"redis://:hunter2",
		"redis://:hunter2/0",
		"redis+sentinel://:hunter2@db/main?sentinel_password=hunter3",
		"redis+cluster://:hunter2@db?read_timeout=10s",
		"redis://:hun%zzter2@db",
		"me:hunter2@db",
		"db:hunter2",
	} {
		s, err := openRedis(raw, none, time.Second, slog.New(slog.DiscardHandler))
		shown := ""
		if err != nil {
			shown = err.Error()
		} else {
			shown = s.What + s.Address
			_ = s.Close()
		}
		if strings.Contains(shown, "hun") || strings.Contains(shown, "ter2") {
			t.Errorf("%q is shown in %s", raw, shown)
		}
	}
}
