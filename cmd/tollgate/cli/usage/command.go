// Package usage is `tollgate usage`: who has used what, as tables, JSON and CSV.
package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
	"tollgate/policy/usage/ledger"
)

// StoreAccess is how a command reaches the store, and in whose name.
type StoreAccess interface {
	// StoreFlags adds the flags that say so.
	StoreFlags(cmd *cobra.Command)
	// WithStore opens the store, lets work have it, and closes it.
	WithStore(cmd *cobra.Command, work func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error) error
}

// Access is how the command reaches the store and the history of usage.
type Access interface {
	StoreAccess
	// HistoryFlags adds the flags that say where the history is.
	HistoryFlags(cmd *cobra.Command)
	// History returns what reaches it, nil if there is none.
	History() (*clickhouse.Client, error)
	// Retention returns how long the store keeps the usage of an API.
	Retention() func(api string) policy.Usage
}

// Command returns the command.
func Command(a Access) *cobra.Command {
	o := &options{output: Table, now: time.Now}
	cmd := &cobra.Command{
		Use:   "usage (--key ID | --team NAME | --api NAME) [flags]",
		Short: "Show what was done with a key, by a team, or with an API",
		Long: `Show what was done with a key, by a team, or with an API: exactly how many requests
were allowed and denied, and what they cost, and of those that were allowed what the
proxy's access log says. OBSERVED is how many of them the log told of.

Days are those of UTC. A day is told by hour for three days, a month by day for five
weeks, and is kept for thirteen months, unless the API's policy says otherwise. With
--usage-clickhouse what is older is read there; give --policy, too, if it says
otherwise.`,
		Args: FlagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.view != "" && (cmd.Flags().Changed("by") || cmd.Flags().Changed("since")) {
				return errors.New("--view stands in place of --by and --since")
			}
			return o.answer(cmd, a)
		},
	}
	a.StoreFlags(cmd)
	a.HistoryFlags(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.key, "key", "", "id of a key")
	f.StringVar(&o.team, "team", "", "name of a team; with --api in that API alone")
	f.StringVar(&o.api, "api", "", "name of an API")
	f.StringVar(&o.by, "by", string(usage.ByRoute), "what has a row: route, hour, day, month, key, status or reason")
	f.StringVar(&o.view, "view", "", "24h, 7d or 30d, in place of --by and --since: that time at a glance, with errors, times and refusals")
	o.common(cmd, "7d")
	cmd.AddCommand(topCommand(a), schemaCommand())
	return cmd
}

func topCommand(a Access) *cobra.Command {
	o := &options{output: Table, now: time.Now, by: string(usage.ByKey)}
	cmd := &cobra.Command{
		Use:   "top --api NAME [flags]",
		Short: "Show which keys have used an API most",
		Args:  FlagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.limit < 1 {
				return fmt.Errorf("--limit: %d is less than 1", o.limit)
			}
			return o.answer(cmd, a)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.api, "api", "", "name of an API")
	f.StringVar(&o.team, "team", "", "name of a team")
	f.StringVar(&o.sort, "sort", string(usage.MostRequests), "what there must be most of: requests, denied, cost, errors or slow")
	f.IntVar(&o.limit, "limit", 10, "how many keys at most")
	o.common(cmd, "1d")
	return cmd
}

// FlagsOnly refuses arguments.
func FlagsOnly(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only", cmd.CommandPath()) // not repeated: one could be a secret
	}
	return nil
}

// options are what the command line says.
type options struct {
	key, team, api string
	by, sort       string
	since          string
	view           string // "" for none
	limit          int    // 0: every row
	output         Format
	chart          string // the file for a picture; "" for none

	span span
	now  func() time.Time
}

// common adds the flags of all.
func (o *options) common(cmd *cobra.Command, since string) {
	cmd.Flags().StringVar(&o.since, "since", since, "how far back: 7d is today and six days before, 24h this hour and 23 before (only --by hour), 3mo this month and two before")
	cmd.Flags().VarP(&o.output, "output", "o", "table, json or csv")
	cmd.Flags().StringVar(&o.chart, "chart", "", "file that also gets the rows as a picture, an SVG")
}

func (o *options) check() error {
	switch {
	case o.key == "" && o.team == "" && o.api == "":
		return errors.New("usage: want --key ID, --team NAME or --api NAME")
	case o.key != "" && (o.team != "" || o.api != ""):
		return errors.New("usage: --key stands alone")
	case o.key != "" && keys.IDProblem(o.key) != "":
		return errors.New("--key: want the id of a key, like key_0123456789abcdef")
	}
	if o.view != "" {
		if err := o.takeView(); err != nil {
			return err
		}
	}
	by, err := usage.ParseBy(o.by)
	if err != nil {
		return fmt.Errorf("--by: %w", err)
	}
	if o.sort != "" {
		if _, err := usage.ParseMost(o.sort); err != nil {
			return fmt.Errorf("--sort: %w", err)
		}
	}
	if o.span, err = parseSpan(o.since); err == nil && o.span.unit == "h" && by != usage.ByHour {
		err = fmt.Errorf("--since %s: only --by hour tells hours apart; want days, such as 1d for today", o.since)
	}
	return err
}

// answer answers.
func (o *options) answer(cmd *cobra.Command, a Access) error {
	if err := o.check(); err != nil {
		return err
	}
	return a.WithStore(cmd, func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error {
		q, err := o.question(ctx, c, who)
		if err != nil {
			return exit.Failed(err)
		}
		history, err := a.History()
		if err != nil {
			return err
		}
		out := output{report: &usage.Report{By: q.By, From: q.From}, about: o.about(q), to: q.To}
		places := sources{ledger: ledger.NewReader(c), keep: a.Retention(), now: o.now()}
		if history != nil {
			places.history = clickhouse.NewReader(history)
		}
		if out.historyFrom, err = places.addTo(ctx, out.report, q); err != nil {
			return exit.Failed(err)
		}
		out.rows = out.report.Rows(usage.Most(o.sort))
		if o.view != "" {
			if out.glance, err = glanceAt(ctx, &places, q, out.report); err != nil {
				return exit.Failed(err)
			}
		}
		if o.limit > 0 {
			out.rows = out.rows[:min(len(out.rows), o.limit)]
		}
		if err := out.print(cmd.OutOrStdout(), o.output); err != nil || o.chart == "" {
			return exit.Failed(err)
		}
		if err := out.writeChart(o.chart); err != nil {
			return exit.Failed(fmt.Errorf("--chart: %w", err))
		}
		return nil
	})
}

// question makes what is asked, if the actor may know that.
func (o *options) question(ctx context.Context, c redis.UniversalClient, who roles.Actor) (q ledger.Question, err error) {
	q = ledger.Question{APIs: []string{o.api}, Team: o.team, Key: o.key, By: usage.By(o.by)}
	q.From, q.To = o.span.until(o.now())
	team := o.team
	switch {
	case o.key != "":
		k, err := KeyOf(ctx, store.New(c), o.key)
		if err != nil {
			return q, err
		}
		q.APIs, team = []string{k.API}, k.Team
	case o.api == "" && !who.Operator:
		q.APIs = []string{who.API}
	case o.api == "":
		if q.APIs, err = ledger.NewReader(c).APIs(ctx); err != nil {
			return q, err
		}
	}
	for _, api := range q.APIs {
		if err := who.Check(roles.ActionUsage, api, team); err != nil {
			return q, err
		}
	}
	return q, nil
}

// KeyOf returns a key, or what is left of a deleted one: its API, whose operator may still see what
// it did.
func KeyOf(ctx context.Context, s *store.Store, id string) (*keys.Key, error) {
	found, err := s.ReadAll(ctx, []string{id})
	if err != nil {
		return nil, err
	}
	if found[0].Err != nil && !errors.Is(found[0].Err, store.ErrDeleted) {
		return nil, found[0].Err
	}
	return found[0].Key, nil
}

// about says in words what a report is about.
func (o *options) about(q ledger.Question) string {
	switch {
	case o.key != "":
		return "key " + o.key + " of api " + q.APIs[0]
	case o.team != "" && o.api == "":
		return "team " + o.team
	case o.team != "":
		return "team " + o.team + " of api " + o.api
	}
	return "api " + o.api
}
