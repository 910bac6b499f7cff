package main

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	stamped := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.time", Value: "2026-11-29T02:00:00Z"}, {Key: "vcs.modified", Value: "true"}}
	for _, c := range []struct {
		info         debug.BuildInfo
		commit, date string
		want         string
	}{
		{debug.BuildInfo{}, "", "", "(unknown)"},
		{debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "", "", "(devel)"},
		{debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: stamped}, "", "", "v1.2.3 (0123456789ab, 2026-11-29T02:00:00Z, changed)"},
		{debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "fedcba9876543210", "2026-11-28T02:00:00Z", "(devel) (fedcba987654, 2026-11-28T02:00:00Z)"},
		{debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "fedcba9876543210", "", "(devel) (fedcba987654, unknown date)"},
	} {
		if got := versionOf(&c.info, c.commit, c.date); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
