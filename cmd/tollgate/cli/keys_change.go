package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tollgate/policy/keys"
)

func newKeys() *cobra.Command {
	a := &access{}
	cmd := group("keys", "Make, show, change and end API keys",
		`Make, show, change and end API keys, in the store that tollgate serve uses.

The first six flags can also be variables: TOLLGATE_ and the name in capitals
(TOLLGATE_STORE, TOLLGATE_POLICY). Without a member's token the operator acts.
Every change is written to the audit stream before it is made (tollgate audit).
No command takes a secret as an argument, and each prints one only when it is
made.`)
	a.flags(cmd)
	cmd.AddCommand(newCreate(a), newGet(a), newList(a), newUpdate(a), newRotate(a),
		newChange(a, change{"revoke", "End keys for good, at once and everywhere",
			"It waits for a replica of the store, if that has or has had any in the last 30 days,\nand exits with 3 if none has confirmed the change within a second: revoke again then.\nIt also waits a second for every server to hear of the change, names those that have\nnot with the time until which they may serve the key, and exits with 3 then, too.", storeOnly, (*keys.Manager).Revoke}),
		newChange(a, change{"deactivate", "Switch keys off until activate", "", storeOnly, (*keys.Manager).Deactivate}),
		newChange(a, change{"activate", "Switch keys on again", "", storeAndPolicy, (*keys.Manager).Activate}),
		newChange(a, change{"delete", "Remove revoked keys", "Only revoked keys can be deleted. Their ids are never used again.", storeOnly, (*keys.Manager).Delete}),
		newVerify(a), newImport(a), newExport(a), newApply(a), newRepair(a))
	return cmd
}

// group is a command that only has others. It does not repeat what it does not
// know: that could be a secret.
func group(name, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_ = cmd.Help()
			}
			return unknownCommand(cmd, args)
		},
	}
}

// ids takes key ids alone. What is none is not repeated: it could be a secret.
func ids(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("%s: want the id of a key, like key_0123456789abcdef", cmd.CommandPath())
		}
		for _, id := range args {
			if !strings.HasPrefix(id, "key_") {
				return fmt.Errorf("%s: an argument is not the id of a key, which begins with key_; if it was a secret, it is in your shell's history now", cmd.CommandPath())
			}
		}
		return nil
	}
}

const manyIDs = 1000

func newCreate(a *access) *cobra.Command {
	k := &keyFlags{}
	cmd := &cobra.Command{
		Use:   "create --api API --name NAME [flags]",
		Short: "Make a key and print its secret, this once",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := k.key(cmd.Flags(), time.Now())
			if err != nil {
				return err
			}
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				if err := a.choose(&key); err != nil {
					return err
				}
				k.sayExpiry(cmd, key.ExpiresAt)
				made, secret, err := a.manager.Create(ctx, key, k.force)
				return a.showSecret(cmd, made, secret, "", err)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&k.api, "api", "", "API of the policy; default: that of the member who acts")
	f.StringVar(&k.team, "team", "", "owner of the key; default: the team of the member who acts")
	f.StringVar(&k.environment, "env", "", "environment, where the API has some")
	k.common(f)
	f.BoolVar(&k.inactive, "inactive", false, "make it switched off")
	return cmd
}

func newUpdate(a *access) *cobra.Command {
	k := &keyFlags{}
	cmd := &cobra.Command{
		Use:   "update ID [flags]",
		Short: "Change fields of a key; what no flag names stays",
		Args:  ids(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			patch, err := k.patch(cmd.Flags(), time.Now())
			if err != nil {
				return err
			}
			return a.run(cmd, storeAndPolicy, func(ctx context.Context) error {
				if patch.ExpiresAt != nil {
					k.sayExpiry(cmd, *patch.ExpiresAt)
				}
				key, err := a.manager.Update(ctx, args[0], patch)
				return a.showChanged(cmd, key, err)
			})
		},
	}
	cmd.Flags().SortFlags = false
	k.common(cmd.Flags())
	cmd.Flags().Int64Var(&k.version, "if-version", 0, "change nothing unless this is the key's version; 0 = any")
	return cmd
}

func newGet(a *access) *cobra.Command {
	return &cobra.Command{
		Use:   "get ID",
		Short: "Show a key",
		Args:  ids(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				key, err := a.manager.Get(ctx, args[0])
				if err != nil {
					return explained(err)
				}
				return failed(a.printKey(cmd.OutOrStdout(), key))
			})
		},
	}
}

func newList(a *access) *cobra.Command {
	l := &listing{}
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "Show keys, by API and id",
		Long: `Show keys, by API and id. If there are more than --limit, the cursor for the rest
is printed too. Which keys are due for rotation: --older-than 90d --status active.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := l.filter.filter(time.Now())
			if err != nil {
				return err
			}
			if l.limit < 0 {
				return fmt.Errorf("--limit: %d is less than 0", l.limit)
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				return l.print(ctx, cmd, a, filter)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	l.filter.add(f)
	f.IntVar(&l.limit, "limit", keys.DefaultPage, "how many keys at most; 0 = all")
	f.StringVar(&l.cursor, "cursor", "", "where an earlier list ended")
	f.BoolVar(&l.wide, "wide", false, "show more columns")
	return cmd
}

func newRotate(a *access) *cobra.Command {
	grace := span(day)
	cmd := &cobra.Command{
		Use:   "rotate ID [--grace 24h]",
		Short: "Make a successor of a key and print its secret, this once",
		Long: `Make a successor of a key, with the same rights, expiry and counters, and print its
secret, this once. The key itself stops after the grace, or at its own expiry if
that is sooner.`,
		Args: ids(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				next, secret, err := a.manager.Rotate(ctx, args[0], time.Duration(grace))
				return a.showSecret(cmd, next, secret, args[0], err)
			})
		},
	}
	cmd.Flags().Var(&grace, "grace", "how long the old secret still works: 24h, 7d, 0s")
	return cmd
}

// change is a command that does one thing to each key it is given.
type change struct {
	name, short, long string
	needs             needs
	do                func(*keys.Manager, context.Context, string) (*keys.Key, error)
}

func newChange(a *access, c change) *cobra.Command {
	cmd := &cobra.Command{
		Use:   c.name + " ID...",
		Short: c.short,
		Long:  strings.TrimSpace(c.short + ".\n" + c.long),
		Args:  ids(1, manyIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, c.needs, func(ctx context.Context) error {
				var errs []error
				for _, id := range args {
					key, err := c.do(a.manager, ctx, id)
					if c.name == "delete" && key != nil {
						key.Status = keys.Deleted
					}
					if err = a.showChanged(cmd, key, err); err != nil {
						errs = append(errs, withID(id, len(args), err))
					}
				}
				return errors.Join(errs...)
			})
		},
	}
	if c.name == "revoke" {
		a.confirm.add(cmd.Flags())
	}
	return cmd
}

// withID says which of many keys an error is about.
func withID(id string, many int, err error) error {
	if many == 1 {
		return err
	}
	return fmt.Errorf("%s: %w", id, err)
}

// noArguments refuses arguments without repeating them: one could be a secret.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only", cmd.CommandPath())
	}
	return nil
}

func newRepair(a *access) *cobra.Command {
	api := ""
	cmd := &cobra.Command{
		Use:   "repair [--api API]",
		Short: "Find and put right what interrupted changes have left in the store",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				report, err := a.manager.Repair(ctx, api)
				if errors.Is(err, keys.ErrForbidden) || errors.Is(err, keys.ErrNotAudited) {
					return explained(err) // nothing was looked at
				}
				return errors.Join(explained(err), failed(a.output.printRecord(cmd.OutOrStdout(), report)))
			})
		},
	}
	cmd.Flags().StringVar(&api, "api", "", "only keys of this API")
	return cmd
}

// explained is an error of the Manager as run prints it: one clear line, and the
// exit code that belongs to it.
func explained(err error) error {
	if err == nil {
		return nil
	}
	f := &failure{err: plain(err)}
	if errors.Is(err, keys.ErrUnconfirmed) || errors.Is(err, keys.ErrUnheard) {
		f.code = exitUnconfirmed
	}
	return f
}
