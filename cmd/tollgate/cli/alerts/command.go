// Package alerts is `tollgate alerts`: the messages that wait or were given up.
package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/cli/usage"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/keys/roles"
)

// Command returns the command.
func Command(a usage.StoreAccess) *cobra.Command {
	replay, format := "", output.Table
	cmd := &cobra.Command{
		Use:   "alerts [--replay ID] [flags]",
		Short: "Show the alerts that nobody has taken yet, and send those that were given up again",
		Long: `Show the alerts that wait to be sent, to the webhook, to Slack or by mail (tollgate serve
--alert-webhook, --alert-slack-url-file, --alert-mail-server), and those that were not
taken for a day, which were given up. The last thousand of those are kept. --replay has
one of them sent again, under the same id, for another day. Only the operator may.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := usage.FlagsOnly(cmd, args); err != nil {
				return err
			}
			if cmd.Flags().Changed("replay") && !regexp.MustCompile(`^msg_[0-9a-f]{32}$`).MatchString(replay) {
				return errors.New("--replay: want the id of an alert, like msg_ and 32 hexadecimal digits")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.WithStore(cmd, func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error {
				if err := who.Check(roles.ActionUsage, "", ""); err != nil {
					return exit.Failed(exit.Plain(err))
				}
				box := outbox.New(c, nil)
				if replay != "" {
					if err := box.Replay(ctx, replay); err != nil {
						return exit.Failed(fmt.Errorf("%s: %w", replay, err))
					}
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is sent again\n", replay)
					return exit.Failed(err)
				}
				all, err := box.List(ctx)
				if err != nil {
					return exit.Failed(err)
				}
				return exit.Failed(show(cmd.OutOrStdout(), format, all))
			})
		},
	}
	a.StoreFlags(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&replay, "replay", "", "id of an alert that was given up, to be sent again")
	f.VarP(&format, "output", "o", "table, json or yaml")
	return cmd
}

// row is a message for programs.
type row struct {
	ID    string          `json:"id"`
	State string          `json:"state"` // waiting or dead
	At    time.Time       `json:"at"`    // when it is sent next, or was given up
	Tries int             `json:"tries"`
	To    string          `json:"to"` // the way out
	Error string          `json:"error,omitempty"`
	Body  json.RawMessage `json:"message"`
}

func show(w io.Writer, format output.Format, all []outbox.Listed) error {
	rows := []row{}
	for _, l := range all {
		r := row{l.ID, "waiting", l.At, l.Tries, l.To, l.Error, l.Body}
		if l.Dead {
			r.State = "dead"
		}
		rows = append(rows, r)
	}
	if format != output.Table {
		return format.Print(w, rows)
	}
	lines := [][]string{{"ID", "STATE", "NEXT OR GIVEN UP (UTC)", "TRIES", "TO", "KEY", "ABOUT", "LAST ERROR"}}
	for _, r := range rows {
		var about struct {
			Type string
			Data struct {
				Key, Limit string
				Percent    int
			}
		}
		_ = json.Unmarshal(r.Body, &about) // else it says less
		what := about.Type
		if about.Data.Limit != "" {
			what = fmt.Sprintf("%s %d %%", about.Data.Limit, about.Data.Percent)
		}
		lines = append(lines, []string{
			r.ID, r.State, r.At.UTC().Format(time.DateTime), strconv.Itoa(r.Tries), r.To, about.Data.Key, what, r.Error,
		})
	}
	return output.Columns(w, lines)
}
