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
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// Access is how the command reaches the store, and in whose name.
type Access interface {
	// StoreFlags adds the flags that say so.
	StoreFlags(cmd *cobra.Command)
	// WithStore opens the store, lets work have it, and closes it.
	WithStore(cmd *cobra.Command, work func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error) error
}

// Command returns the command.
func Command(a Access) *cobra.Command {
	o := &options{output: table}
	cmd := &cobra.Command{
		Use:   "usage (--key ID | --team NAME --api NAME | --api NAME) [flags]",
		Short: "Show what was done with a key, by a team, or with an API",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s: takes flags only", cmd.CommandPath()) // one could be a secret
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return a.WithStore(cmd, func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error {
				return o.run(ctx, cmd, c, who)
			})
		},
	}
	a.StoreFlags(cmd)
	o.flags(cmd)
	return cmd
}

// options are what the command line says.
type options struct {
	key, team, api string
	by             string
	since          string
	output         format

	span span
	now  func() time.Time
}

func (o *options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.key, "key", "", "id of a key")
	f.StringVar(&o.team, "team", "", "name of a team; with --api")
	f.StringVar(&o.api, "api", "", "name of an API")
	f.StringVar(&o.by, "by", string(usage.ByRoute), "what has a row: route, hour, day, month, key, status or reason")
	f.StringVar(&o.since, "since", "7d", "how far back: 24h with --by hour, 7d for today and six days before, 3mo for this month and two before; days are those of UTC")
	f.VarP(&o.output, "output", "o", "table, json or csv")
	o.now = time.Now
}

func (o *options) check() error {
	switch {
	case o.key == "" && o.api == "":
		return errors.New("usage: want --key ID, or --api NAME, with --team NAME for one team of it")
	case o.key != "" && (o.team != "" || o.api != ""):
		return errors.New("usage: --key stands alone")
	}
	if o.key != "" && keys.IDProblem(o.key) != "" {
		return errors.New("--key: want the id of a key, like key_0123456789abcdef")
	}
	if _, err := usage.ParseBy(o.by); err != nil {
		return fmt.Errorf("--by: %w", err)
	}
	var err error
	o.span, err = parseSpan(o.since)
	return err
}

// run answers.
func (o *options) run(ctx context.Context, cmd *cobra.Command, c redis.UniversalClient, who roles.Actor) error {
	q := ledger.Question{API: o.api, Team: o.team, Key: o.key, By: usage.By(o.by)}
	q.From, q.To = o.span.until(o.now())
	if o.key != "" {
		k, err := store.New(c).Get(ctx, o.key)
		if err != nil {
			return exit.Failed(err)
		}
		q.API, q.Team = k.API, k.Team
	}
	if err := who.Check(roles.ActionUsage, q.API, q.Team); err != nil {
		return exit.Failed(err)
	}
	report, err := ledger.NewReader(c).Ask(ctx, q)
	if err != nil {
		return exit.Failed(err)
	}
	return exit.Failed(o.output.print(cmd.OutOrStdout(), report))
}
