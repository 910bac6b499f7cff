// Package errors is `tollgate errors`: which requests were refused or failed, as a table, JSON and
// CSV.
package errors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/usage"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// Command returns the command.
func Command(a usage.StoreAccess) *cobra.Command {
	o := &options{output: usage.Table, now: time.Now, ticks: func() (<-chan time.Time, func()) {
		t := time.NewTicker(followInterval)
		return t.C, t.Stop
	}}
	cmd := &cobra.Command{
		Use:   "errors (--key ID | --api NAME) [flags]",
		Short: "Show which requests were refused, and which the application answered with 5xx",
		Long: `Show which requests were refused, and which of those that were allowed the application
answered with 5xx, as the proxy's access log says. Each server tells of one request a
second of a key and reason, and of a hundred of an API; "and n more" says how many
others there were. The last hundred of a key are kept, for 35 days or what the API's
policy says; tollgate usage --by reason counts all of them.`,
		Args: usage.FlagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.answer(cmd, a) },
	}
	a.StoreFlags(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.key, "key", "", "id of a key")
	f.StringVar(&o.api, "api", "", "name of an API: all its keys, and requests without a known key")
	f.StringSliceVar(&o.reasons, "reason", nil, "reasons, joined with commas: "+strings.Join(errorlog.Reasons(), ", "))
	f.StringVar(&o.since, "since", "24h", "how far back: a number of minutes, hours or days such as 30m, 24h or 7d")
	f.IntVar(&o.limit, "limit", 1000, "how many at most, the latest")
	f.BoolVar(&o.follow, "follow", false, "go on with those that come, until Ctrl-C")
	f.VarP(&o.output, "output", "o", "table, json or csv; json with --follow is one object a line")
	return cmd
}

// followInterval is how often Redis is asked for what is new.
const followInterval = time.Second

// options are what the command line says.
type options struct {
	key, api string
	reasons  []string
	since    string
	limit    int
	follow   bool
	output   usage.Format

	span  time.Duration
	now   func() time.Time
	ticks func() (<-chan time.Time, func())
}

func (o *options) check() (err error) {
	switch {
	case (o.key == "") == (o.api == ""):
		return errors.New("errors: want --key ID or --api NAME")
	case o.key != "" && keys.IDProblem(o.key) != "":
		return errors.New("--key: want the id of a key, like key_0123456789abcdef")
	case o.limit < 1:
		return fmt.Errorf("--limit: %d is less than 1", o.limit)
	}
	for _, r := range o.reasons {
		if !slices.Contains(errorlog.Reasons(), r) {
			return fmt.Errorf("--reason: %q is not one of %s", r, strings.Join(errorlog.Reasons(), ", "))
		}
	}
	o.span, err = parseSpan(o.since)
	return err
}

func parseSpan(text string) (time.Duration, error) {
	for unit, d := range map[string]time.Duration{"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			if n, err := strconv.Atoi(digits); err == nil && n >= 1 && n <= 100_000 {
				return time.Duration(n) * d, nil
			}
		}
	}
	return 0, fmt.Errorf("--since: %q is not a number of minutes, hours or days such as 30m, 24h or 7d", text)
}

// answer answers.
func (o *options) answer(cmd *cobra.Command, a usage.StoreAccess) error {
	if err := o.check(); err != nil {
		return err
	}
	return a.WithStore(cmd, func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error {
		q, err := o.question(ctx, c, who)
		if err != nil {
			return exit.Failed(err)
		}
		r := journal.NewReader(c)
		out := &output{w: cmd.OutOrStdout(), format: o.output}
		if o.follow {
			return exit.Failed(o.followOn(ctx, r.Follow(q), out))
		}
		found, err := r.Ask(ctx, q)
		if err != nil {
			return exit.Failed(err)
		}
		return exit.Failed(out.all(o.about(q), q.Since, found))
	})
}

// question makes what is asked, if the actor may know that.
func (o *options) question(ctx context.Context, c redis.UniversalClient, who roles.Actor) (journal.Question, error) {
	q := journal.Question{API: o.api, Key: o.key, Reasons: o.reasons, Since: o.now().Add(-o.span).Truncate(time.Second), Most: o.limit}
	team := ""
	if o.key != "" {
		k, err := usage.KeyOf(ctx, store.New(c), o.key)
		if err != nil {
			return q, err
		}
		q.API, team = k.API, k.Team
	}
	return q, who.Check(roles.ActionUsage, q.API, team)
}

// about says in words what is shown.
func (o *options) about(q journal.Question) string {
	if o.key != "" {
		return "key " + o.key + " of api " + q.API
	}
	return "api " + o.api
}

// followOn prints the latest that there are, and then what comes until ctx ends.
func (o *options) followOn(ctx context.Context, f *journal.Follower, out *output) error {
	ticks, stop := o.ticks()
	defer stop()
	found, err := f.Next(ctx)
	found = found[max(len(found)-o.limit, 0):]
	for {
		if err == nil {
			err = out.more(found)
		}
		switch {
		case ctx.Err() != nil:
			return nil // it was told to end
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks:
			found, err = f.Next(ctx)
		}
	}
}
