package main

import (
	"strings"
	"testing"
	"time"
)

func TestPasswordsAreNotShown(t *testing.T) {
	for raw, want := range map[string]string{
		"redis://db:6379/0":                    "redis://db:6379/0",
		"redis://[::1]:6379/0":                 "redis://[::1]:6379/0",
		"redis://me:hunter2@db:6379/0":         "redis://xxxxx@db:6379/0",
		"rediss://hunter2@db":                  "rediss://xxxxx@db",
		"redis://:hun@ter2@db":                 "redis://xxxxx@db",
		"redis://:hun/ter2@db":                 "redis://xxxxx@db",
		"redis://:hunter2":                     "redis://xxxxx",
		"redis://:hunter2/0":                   "redis://xxxxx",
		"redis://db?client_name=hunter2":       "redis://db?…",
		"redis://:hunter2@db?read_timeout=10s": "redis://xxxxx@db?…",
		"me:hunter2@db":                        "xxxxx@db",
		"db:hunter2":                           "xxxxx",
		"redis://:hun%zzter2@db":               "redis://xxxxx@db",
	} {
		if got := redactURL(raw); got != want {
			t.Errorf("redactURL(%q) = %q, want %q", raw, got, want)
		}
		s, err := openRedis(raw, time.Second)
		if err == nil {
			_ = s.close()
			if strings.Contains(s.what+s.address, "hun") {
				t.Errorf("%q is shown as %q", raw, s.what)
			}
		} else if strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%q: the error shows the password: %v", raw, err)
		}
	}
}
