// Package clients is `tollgate clients`: who presents access tokens is blocked, and given a plan or
// limits of its own.
package clients

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/store"
)

// Need is what a command cannot do without, beside the store.
type Need uint8

// What commands need.
const (
	Nothing Need = iota
	Pepper       // a record may be made
	Policy       // rights are given, and a record may be made
)

// Access is how the commands reach the store and the policy, and in whose name.
type Access interface {
	// KeyFlags adds the flags that say so, and the one of the output.
	KeyFlags(cmd *cobra.Command)
	// ConfirmFlag adds the flag that says how many replicas have to confirm a block.
	ConfirmFlag(cmd *cobra.Command)
	// WithClients opens what is needed, lets work have it, and closes it.
	WithClients(cmd *cobra.Command, n Need, work func(ctx context.Context, o Open) error) error
}

// Open is what Access opens.
type Open struct {
	Manager *admin.Manager
	Output  output.Format
	// KnowsIssuer reports an issuer that the policy does not have, if one can be read.
	KnowsIssuer func(api, issuer string) error
	// Failed gives an error of the Manager its one clear line and its exit code.
	Failed func(error) error
}

// Command returns the commands.
func Command(cmd *cobra.Command, a Access) *cobra.Command {
	a.KeyFlags(cmd)
	cmd.AddCommand(listCommand(a), getCommand(a), blockCommand(a), unblockCommand(a), planCommand(a), limitCommand(a))
	return cmd
}

// named is the client that a command is about.
type named struct{ api, issuer string }

func (n *named) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&n.api, "api", "", "API that the client uses")
	f.StringVar(&n.issuer, "issuer", "", "issuer of its tokens, as the policy and the tokens' iss have it")
}

// args takes a client and so many other arguments. None of them is repeated: a token could have
// been pasted.
func (n *named) args(least, most int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least || len(args) > most:
			return fmt.Errorf("%s: want %s", cmd.CommandPath(), want)
		case keys.IsClientID(args[0]) && n.api == "" && n.issuer == "":
			return nil
		case n.api == "" || n.issuer == "":
			return errors.New("which client? give --api and --issuer, or the id of its record, like key_client_ and 22 letters and digits")
		case strings.Count(args[0], ".") == 2 && len(args[0]) > 100:
			return errors.New("the argument looks like a token, which is in your shell's history now; want the client's id as its issuer names it")
		}
		return nil
	}
}

// client returns the client that is meant.
func (n *named) client(ctx context.Context, o Open, name string) (api string, c keys.Client, err error) {
	if n.api != "" {
		c = keys.Client{Issuer: n.issuer, ID: name}
		return n.api, c, errors.Join(c.Validate(), o.KnowsIssuer(n.api, n.issuer))
	}
	k, err := o.Manager.ClientByID(ctx, name)
	if err != nil {
		return "", keys.Client{}, err
	}
	return k.API, k.Client, nil
}

// change is a command that changes one client.
func change(a Access, cmd *cobra.Command, need Need, least int, want string, do func(ctx context.Context, m *admin.Manager, api string, c keys.Client, args []string) (*keys.Key, error)) *cobra.Command {
	n := &named{}
	cmd.Args = n.args(least, max(least, 1), want)
	if strings.HasSuffix(cmd.Use, "...") {
		cmd.Args = n.args(least, maxChanges, want)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithClients(cmd, need, func(ctx context.Context, o Open) error {
			api, c, err := n.client(ctx, o, args[0])
			if err != nil {
				return o.Failed(err)
			}
			k, err := do(ctx, o.Manager, api, c, args[1:])
			if k == nil {
				return o.Failed(err)
			}
			return errors.Join(o.Failed(err), exit.Failed(changed(cmd.OutOrStdout(), o.Output, k)))
		})
	}
	n.flags(cmd)
	return cmd
}

// maxChanges bounds the limits that one command changes.
const maxChanges = 100

func blockCommand(a Access) *cobra.Command {
	cmd := change(a, &cobra.Command{
		Use:   "block CLIENT --api API --issuer URL",
		Short: "Refuse all tokens of a client, at once and everywhere",
		Long: `Refuse all tokens of a client, at once and everywhere, those too that servers have
verified before. The client need not have been seen yet. It waits for a replica of the
store and for the servers as tollgate keys revoke does, and exits with 3 where that
does. It needs no policy; with one (--policy) a mistyped issuer is found, and without
that blocks nobody.`,
	}, Pepper, 1, "the id of a client, as its issuer names it", func(ctx context.Context, m *admin.Manager, api string, c keys.Client, _ []string) (*keys.Key, error) {
		return m.BlockClient(ctx, api, c)
	})
	a.ConfirmFlag(cmd)
	return cmd
}

func unblockCommand(a Access) *cobra.Command {
	return change(a, &cobra.Command{
		Use:   "unblock CLIENT --api API --issuer URL",
		Short: "Take tokens of a client again",
	}, Nothing, 1, "the id of a client, as its issuer names it", func(ctx context.Context, m *admin.Manager, api string, c keys.Client, _ []string) (*keys.Key, error) {
		return m.UnblockClient(ctx, api, c)
	})
}

func planCommand(a Access) *cobra.Command {
	return change(a, &cobra.Command{
		Use:   "plan CLIENT PLAN|none --api API --issuer URL",
		Short: "Give a client a plan of its own",
		Long: `Give a client a plan of its own, before the one that its tokens claim or the policy
says. With none, those count again.`,
	}, Policy, 2, "the id of a client and a plan, or none", func(ctx context.Context, m *admin.Manager, api string, c keys.Client, args []string) (*keys.Key, error) {
		plan := args[0]
		if plan == none {
			plan = ""
		}
		return m.PlanClient(ctx, api, c, plan)
	})
}

func limitCommand(a Access) *cobra.Command {
	return change(a, &cobra.Command{
		Use:   "limit CLIENT NAME=REQUESTS...",
		Short: "Change the size of limits of a client's own plan for it",
		Long: `Change the size of limits of a client's own plan for it, which tollgate clients plan
gives; NAME=none takes the change back. More until a time is tollgate limits grant.`,
	}, Policy, 2, "the id of a client and NAME=REQUESTS, such as minute=120", func(ctx context.Context, m *admin.Manager, api string, c keys.Client, args []string) (*keys.Key, error) {
		changes, err := parseLimits(args)
		if err != nil {
			return nil, err
		}
		return m.LimitClient(ctx, api, c, changes)
	})
}

// none is the word for no plan, and for no limit of the client's own.
const none = "none"

// parseLimits reads NAME=REQUESTS and NAME=none, each name once.
func parseLimits(texts []string) (all []admin.LimitChange, err error) {
	seen := map[string]bool{}
	for _, text := range texts {
		name, number, ok := strings.Cut(text, "=")
		requests, err := strconv.ParseInt(number, 10, 64)
		switch {
		case !ok || name == "" || err != nil && number != none:
			return nil, fmt.Errorf("%q is not NAME=REQUESTS, such as minute=120", output.Printable(text))
		case seen[name]:
			return nil, fmt.Errorf("%q is given twice", output.Printable(name))
		}
		seen[name] = true
		all = append(all, admin.LimitChange{Override: keys.Override{Name: name, Requests: requests}, Remove: number == none})
	}
	return all, nil
}

func getCommand(a Access) *cobra.Command {
	n := &named{}
	cmd := &cobra.Command{
		Use:   "get CLIENT --api API --issuer URL",
		Short: "Show the record of a client",
		Args:  n.args(1, 1, "the id of a client, as its issuer names it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.WithClients(cmd, Nothing, func(ctx context.Context, o Open) error {
				api, c, err := n.client(ctx, o, args[0])
				if err != nil {
					return o.Failed(err)
				}
				k, err := o.Manager.Client(ctx, api, c)
				if errors.Is(err, store.ErrNoKey) {
					err = fmt.Errorf("there is no record of the client, so its tokens and the policy count; its id would be %s", c.RecordID(api))
				}
				if err != nil {
					return o.Failed(err)
				}
				return exit.Failed(shown(cmd.OutOrStdout(), o.Output, k))
			})
		},
	}
	n.flags(cmd)
	return cmd
}

func listCommand(a Access) *cobra.Command {
	var api, cursor string
	var limit int
	var blocked bool
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "Show the clients that were blocked, or given something",
		Long: `Show the clients that have a record, by API and id: those that were blocked, or given a
plan, limits or a grant. A client that only presents tokens has none.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > store.MaxPage {
				return fmt.Errorf("--limit: %d is not 1 to %d", limit, store.MaxPage)
			}
			return a.WithClients(cmd, Nothing, func(ctx context.Context, o Open) error {
				f := store.Filter{API: api}
				if blocked {
					f.Status = []keys.Status{keys.Inactive}
				}
				page, next, err := pageOf(ctx, o.Manager, f, cursor, limit)
				var broken *keys.CorruptError
				if err != nil && !errors.As(err, &broken) {
					return o.Failed(err)
				}
				if err != nil { // of single records; the others are what was asked for
					cmd.PrintErrln(exit.Plain(err))
				}
				if next != "" && o.Output == output.Table {
					cmd.PrintErrf("there are more: --cursor %s\n", next)
				}
				return exit.Failed(listed(cmd.OutOrStdout(), o.Output, page, next))
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&api, "api", "", "only clients of this API")
	f.BoolVar(&blocked, "blocked", false, "only clients that are blocked")
	f.IntVar(&limit, "limit", store.DefaultPage, "how many at most")
	f.StringVar(&cursor, "cursor", "", "where an earlier list ended")
	return cmd
}

// pageOf reads until there are enough, or no more.
func pageOf(ctx context.Context, m *admin.Manager, f store.Filter, cursor string, limit int) (all []*keys.Key, next string, err error) {
	for {
		page, next, broken := m.Clients(ctx, f, cursor, limit-len(all))
		all = append(all, page...)
		if err = errors.Join(err, broken); next == "" || len(all) >= limit || next == cursor {
			return all, next, err
		}
		cursor = next
	}
}
