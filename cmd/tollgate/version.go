package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
)

// The commit and its date, set by the linker (-X main.commit=…) where the go tool does
// not find them by itself: in a build without git or with -buildvcs=false.
var commit, commitDate string

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, with commit and date",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "tollgate %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return exit.Failed(err)
		},
	}
}

// version returns the tag or pseudo-version of the build, and in brackets the commit
// and its date, as far as they are known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return versionOf(info, commit, commitDate)
}

func versionOf(info *debug.BuildInfo, commit, date string) string {
	changed := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = cmp.Or(commit, s.Value)
		case "vcs.time":
			date = cmp.Or(date, s.Value)
		case "vcs.modified":
			if s.Value == "true" {
				changed = ", changed"
			}
		}
	}
	name := cmp.Or(info.Main.Version, "(unknown)")
	if commit == "" {
		return name
	}
	return fmt.Sprintf("%s (%.12s, %s%s)", name, commit, cmp.Or(date, "unknown date"), changed)
}
