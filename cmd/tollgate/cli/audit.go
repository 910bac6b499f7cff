package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
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
				entries, next, err := a.manager.ReadAudit(ctx, from, limit, keys.Order(!oldest))
				if err != nil {
					return explained(err)
				}
				return failed(a.printAudit(cmd, entries, next))
			})
		},
	}
	a.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", keys.DefaultPage, "how many lines at most")
	cmd.Flags().StringVar(&from, "from", "", "where an earlier output ended")
	cmd.Flags().BoolVar(&oldest, "oldest-first", false, "begin with the oldest line that is kept")
	return cmd
}

func (a *access) printAudit(cmd *cobra.Command, entries []keys.AuditEntry, next string) error {
	out := cmd.OutOrStdout()
	if a.output != outputTable {
		return a.output.printRecord(out, struct {
			Entries []keys.AuditEntry `json:"entries"`
			Next    string            `json:"next,omitempty"`
		}{append([]keys.AuditEntry{}, entries...), next})
	}
	rows := [][]string{{"LINE", "TIME", "WHO", "ROLE", "ACTION", "API", "TEAM", "IDS OR RESULT"}}
	for _, e := range entries {
		row := []string{e.ID, e.Time.UTC().Format(time.RFC3339), e.Who, e.Role, string(e.Action), e.API, e.Team, strings.Join(e.IDs, " ")}
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
	return columns(out, rows)
}

// newStoreCommand helps to set the store up.
func newStoreCommand() *cobra.Command {
	cmd := group("store", "What the store needs", "")
	cmd.AddCommand(&cobra.Command{
		Use:   "acl server|cli|sentinel",
		Short: "Print the rules of a Redis user that may do only what this needs",
		Long: `Print the rules of a Redis user, for ACL SETUSER or users.acl, that may do only what
tollgate serve (server) or the commands that manage keys (cli) need, or either on the
sentinels. Add "on" and a password.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			acls := map[string]func() connect.ACL{"server": connect.ServerACL, "cli": connect.CLIACL, "sentinel": connect.SentinelACL}
			acl, ok := acls[args[0]]
			if !ok {
				return fmt.Errorf("store acl: %q is not server, cli or sentinel", args[0])
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(acl().Rules(), " "))
			return failed(err)
		},
	}, newAcceptEmpty())
	return cmd
}

func newAcceptEmpty() *cobra.Command {
	a := &access{}
	cmd := &cobra.Command{
		Use:   "accept-empty",
		Short: "Say that the store is meant to be as empty as it is",
		Long: `Say that the store is meant to be as empty as it is. Servers that know it from before
it was emptied answer no request with a key that they do not find, until its data is
back or this is said; from then on such a key is unknown. On a new store it says what
the first server would: that keys are hashed with this pepper, which commands need to
know. A store that has keys with another pepper is left as it is.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if !a.who.Operator {
					return fmt.Errorf("store accept-empty is for the operator, not for a member with a token")
				}
				if err := keys.NewStore(a.store.client).AcceptEmpty(ctx, a.hasher); err != nil {
					return explained(err)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "accepted: servers take the store as it is, within about a second")
				return failed(err)
			})
		},
	}
	a.flags(cmd)
	return cmd
}
