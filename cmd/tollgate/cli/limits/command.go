// Package limits is `tollgate limits`: what keys have spent of their limits, and how an operator
// has it begin anew or grants more for a time.
package limits

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

// Access is how the commands reach the store and the policy, and in whose name.
type Access interface {
	// KeyFlags adds the flags that say so, and the one of the output.
	KeyFlags(cmd *cobra.Command)
	// WithPolicy opens both, lets work have them, and closes them.
	WithPolicy(cmd *cobra.Command, work func(ctx context.Context, o Open) error) error
}

// Open is what Access opens.
type Open struct {
	Store   redis.UniversalClient
	Policy  *policy.Set
	Manager *admin.Manager
	Output  output.Format
}

// Command returns the commands. oneID takes the id of one key as the only argument.
func Command(cmd *cobra.Command, a Access, oneID cobra.PositionalArgs) *cobra.Command {
	a.KeyFlags(cmd)
	cmd.AddCommand(showCommand(a, oneID), resetCommand(a, oneID), grantCommand(a, oneID))
	return cmd
}

func showCommand(a Access, oneID cobra.PositionalArgs) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show what a key may spend, and has spent",
		Args:  oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.WithPolicy(cmd, func(ctx context.Context, o Open) error {
				s, err := o.look(ctx, args[0])
				if err != nil {
					return failed(err)
				}
				return exit.Failed(s.print(cmd.OutOrStdout(), o.Output))
			})
		},
	}
}

func resetCommand(a Access, oneID cobra.PositionalArgs) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use:   "reset ID --limit NAME",
		Short: "Have what a key has spent of a limit count no more",
		Long: `Have what a key has spent of a limit count no more, in the window that is in force.
Servers give back what they have leased of it first; what one that does not answer
holds stays counted until it is spent or comes back, so nothing counts twice and no
limit is exceeded. A key that was rotated shares its counters with its successor.`,
		Args: oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(names) == 0 {
				return fmt.Errorf("--limit is missing: the name of a limit; limits show names them")
			}
			return a.WithPolicy(cmd, func(ctx context.Context, o Open) error {
				before, after, err := o.reset(ctx, args[0], names)
				if err != nil && after == nil {
					return failed(err)
				}
				if printed := printReset(cmd.OutOrStdout(), o.Output, before, after); printed != nil {
					return exit.Failed(printed)
				}
				return failed(err)
			})
		},
	}
	cmd.Flags().StringSliceVar(&names, "limit", nil, "name of a limit; repeat for more")
	return cmd
}

func grantCommand(a Access, oneID cobra.PositionalArgs) *cobra.Command {
	var what, until string
	cmd := &cobra.Command{
		Use:   "grant ID --limit NAME=+N --until TIME",
		Short: "Let a key spend more of a limit until a time",
		Long: `Let a key spend more of a limit until a time, in each of its windows; then the limit is
again what it was. Grants of one limit add up, 16 at most. NAME=none takes them away.
A successor by rotation inherits them.`,
		Args: oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			x, none, err := parseGrant(what, until)
			if err != nil {
				return err
			}
			if len(until) == len(time.DateOnly) {
				cmd.PrintErrf("--until: taken as %s, the end of that day in UTC\n", x.Until.Format(time.RFC3339))
			}
			return a.WithPolicy(cmd, func(ctx context.Context, o Open) error {
				if none {
					_, err = o.Manager.TakeExtras(ctx, args[0], x.Name)
				} else {
					_, err = o.Manager.GrantExtra(ctx, args[0], x)
				}
				if err != nil {
					return failed(err)
				}
				s, err := o.look(ctx, args[0])
				if err != nil {
					return failed(err)
				}
				return exit.Failed(s.print(cmd.OutOrStdout(), o.Output))
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&what, "limit", "", "NAME=+N: so many more of this limit; NAME=none: no more than before")
	f.StringVar(&until, "until", "", "when it ends: 2026-12-31T23:59:59Z, or 2026-12-31 for the end of that day in UTC")
	return cmd
}

// parseGrant reads the flags of grant; none says that grants are to be taken away.
func parseGrant(what, until string) (x keys.Extra, none bool, err error) {
	name, size, ok := strings.Cut(what, "=")
	more, plus := strings.CutPrefix(size, "+")
	switch {
	case what == "":
		return x, false, fmt.Errorf("--limit is missing: NAME=+N, such as month=+500")
	case !ok || name == "":
		return x, false, fmt.Errorf("--limit: want NAME=+N, such as month=+500")
	case size == "none" && until != "":
		return x, false, fmt.Errorf("--until: %s takes away at once; leave it out", what)
	case size == "none":
		return keys.Extra{Name: name}, true, nil
	case until == "":
		return x, false, fmt.Errorf("--until is missing: when the grant ends, such as 2026-12-31")
	}
	x.Name = name
	if x.Requests, err = strconv.ParseInt(more, 10, 64); err != nil || !plus || x.Requests < 1 {
		return x, false, fmt.Errorf("--limit: %q is not +N with a whole number above 0", size)
	}
	if x.Until, err = ParseEnd(until); err != nil {
		return x, false, fmt.Errorf("--until: %w", err)
	}
	return x, false, nil
}

// ParseEnd reads when something ends: a time, or a day, which means its last second in UTC.
func ParseEnd(text string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a time like 2026-12-31T23:59:59Z and not a day like 2026-12-31", text)
	}
	return at.UTC(), nil
}

// failed is an error of the store, the policy or the roles, in one clear line.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return exit.Failed(exit.Plain(err))
}

// look reads what a key may spend and has spent.
func (o Open) look(ctx context.Context, id string) (*state, error) {
	k, err := o.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return o.stateOf(ctx, k)
}

// get reads the record of a key, or of a client.
func (o Open) get(ctx context.Context, id string) (*keys.Key, error) {
	if keys.IsClientID(id) {
		return o.Manager.ClientByID(ctx, id)
	}
	return o.Manager.Get(ctx, id)
}

func (o Open) stateOf(ctx context.Context, k *keys.Key) (*state, error) {
	now := time.Now()
	windows, concurrent, err := o.Policy.LimitsOf(k, now)
	if err != nil {
		return nil, err
	}
	counted, err := o.count(ctx, k, windows)
	if err != nil {
		return nil, err
	}
	s := &state{Key: k.ID, API: k.API, Plan: k.Plan, Limits: []limit{}}
	if k.LimitID != k.ID {
		s.LimitID = k.LimitID
	}
	s.Limits = append(s.Limits, counted...)
	if concurrent > 0 {
		inUse, err := o.inUse(ctx, k)
		if err != nil {
			return nil, err
		}
		s.Concurrent = &slots{concurrent, inUse}
	}
	for _, x := range k.Extras {
		if now.Before(x.Until) {
			s.Grants = append(s.Grants, grant{x.Name, x.Requests, x.Until})
		}
	}
	return s, nil
}

// count reads what is spent of windows of a key.
func (o Open) count(ctx context.Context, k *keys.Key, windows []limits.Window) ([]limit, error) {
	res, held, err := counters.NewStore(o.Store, nil).Peek(ctx, &limits.Spend{ID: k.LimitID, Windows: windows, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	return limitsOf(windows, res.States, held), nil
}

// inUse reads how many requests of a key are under way.
func (o Open) inUse(ctx context.Context, k *keys.Key) (int64, error) {
	asked := limits.Slot{ID: "limits show", Places: limits.MaxPlaces, Hold: time.Second}
	res, _, err := counters.NewStore(o.Store, nil).Peek(ctx, &limits.Spend{ID: k.LimitID, Slot: asked})
	if res.Allowed {
		res.InUse-- // that of the question
	}
	return res.InUse, err
}

// windowsOf returns the windows with these names.
func (o Open) windowsOf(k *keys.Key, names []string) (chosen []limits.Window, err error) {
	all, _, err := o.Policy.LimitsOf(k, time.Now())
	if err != nil {
		return nil, err
	}
	var known []string
	for _, w := range all {
		known = append(known, w.Name)
	}
	for _, name := range names {
		found := false
		for _, w := range all {
			if w.Name == name {
				chosen, found = append(chosen, w), true
			}
		}
		switch {
		case name == policy.ConcurrentLimit && !found:
			return nil, fmt.Errorf("%s is not counted in windows: its places are free when their requests have ended", name)
		case !found:
			return nil, fmt.Errorf("key %s has no limit %q%s", k.ID, name, policy.Suggest(name, known))
		}
	}
	return chosen, nil
}
