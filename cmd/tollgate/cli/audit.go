package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/store"
)

func newAudit() *cobra.Command {
	a, from, limit, oldest := &access{}, "", 0, false
	cmd := &cobra.Command{
		Use:   "audit [flags]",
		Short: "Show who changed which keys, newest first",
		Long: `Show who changed which keys, teams and members, newest first. A change is two lines:
what was about to be done, and how it went. JSON and YAML have the record before and
after.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 1000 {
				return fmt.Errorf("--limit: %d is not 1 to 1000", limit)
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				entries, next, err := a.manager.ReadAudit(ctx, from, limit, audit.Order(!oldest))
				if err != nil {
					return explained(err)
				}
				return exit.Failed(a.printAudit(cmd, entries, next))
			})
		},
	}
	a.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", store.DefaultPage, "how many lines at most")
	cmd.Flags().StringVar(&from, "from", "", "where an earlier output ended")
	cmd.Flags().BoolVar(&oldest, "oldest-first", false, "begin with the oldest line that is kept")
	return cmd
}

func (a *access) printAudit(cmd *cobra.Command, entries []audit.Entry, next string) error {
	out := cmd.OutOrStdout()
	if a.output != output.Table {
		return a.output.Print(out, struct {
			Entries []audit.Entry `json:"entries"`
			Next    string        `json:"next,omitempty"`
		}{append([]audit.Entry{}, entries...), next})
	}
	rows := [][]string{{"LINE", "TIME", "WHO", "ROLE", "ACTION", "API", "TEAM", "IDS OR RESULT"}}
	for _, e := range entries {
		row := []string{e.ID, e.Time.UTC().Format(time.RFC3339), e.Who, e.Role, string(e.Action), e.API, e.Team, strings.Join(e.IDs, " ")}
		if e.Address != "" {
			row[2] += " from " + e.Address
		}
		switch {
		case e.Corrupt != "":
			row[7] = "unreadable: " + e.Corrupt
		case e.Intent != "":
			row[2], row[7] = "  of "+e.Intent, strings.TrimSpace(strings.ReplaceAll(e.Result, "\n", "; ")+" "+strings.Join(e.IDs, " "))
		}
		rows = append(rows, row)
	}
	if next != "" {
		cmd.PrintErrf("there are more: --from %s\n", next)
	}
	return output.Columns(out, rows)
}
