package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/bootstrap"
	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

func newMembers() *cobra.Command {
	a, p := &access{}, &place{}
	cmd := group("members", "Add, list, change and remove the members of a team",
		`Add, list, change and remove the members of a team. Each has a token, shown once,
and acts with it through TOLLGATE_TOKEN or --token-file. An admin may do everything
with the keys and members of the own team; editors and viewers see no key.

A token binds a portal: a program that holds the store's URL, the pepper and the
policy, and acts for members with their tokens. It does not bind a person who holds
these three, because without the token, or with another policy, the same commands
act as the operator. Give members the portal, never the store.`)
	a.flags(cmd)
	cmd.PersistentFlags().StringVar(&p.api, "api", "", "API of the team; default: that of the member who acts")
	cmd.PersistentFlags().StringVar(&p.team, "team", "", "the team; default: that of the member who acts")
	cmd.AddCommand(newMemberAdd(a, p), newMemberList(a, p), newSetRole(a, p), newMemberRemove(a, p), bootstrap.Command(a))
	return cmd
}

// newToken is what members add prints.
type newToken struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

func newMemberAdd(a *access, p *place) *cobra.Command {
	text := ""
	cmd := &cobra.Command{
		Use:   "add NAME --api API --team TEAM --role admin|editor|viewer",
		Short: "Add a member and print the token, which is shown only once",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			role, err := roles.ParseRole(text)
			if err != nil {
				return fmt.Errorf("--%w", err)
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if err := p.require(a, true); err != nil {
					return err
				}
				member, token, err := a.manager.AddMember(ctx, p.api, p.team, args[0], role)
				if member == nil {
					return explained(err)
				}
				return errors.Join(explained(err), exit.Failed(a.printToken(cmd, newToken{member.ID, token})))
			})
		},
	}
	cmd.Flags().StringVar(&text, "role", "", "admin, editor or viewer")
	return cmd
}

func (a *access) printToken(cmd *cobra.Command, made newToken) error {
	out := cmd.OutOrStdout()
	if a.output != output.Table {
		return a.output.Print(out, made)
	}
	if err := output.Columns(out, output.Fields("id", made.ID, "token", made.Token)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "The token is shown once: it is stored nowhere.")
	return err
}

func newMemberList(a *access, p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "list --api API --team TEAM",
		Short: "Show the members of a team",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if err := p.require(a, true); err != nil {
					return err
				}
				members, err := a.manager.Members(ctx, p.api, p.team)
				if err != nil {
					return explained(err)
				}
				return exit.Failed(a.printMembers(cmd, members))
			})
		},
	}
}

func (a *access) printMembers(cmd *cobra.Command, members []*store.Member) error {
	if a.output != output.Table {
		return a.output.Print(cmd.OutOrStdout(), struct {
			Members []*store.Member `json:"members"`
		}{append([]*store.Member{}, members...)})
	}
	rows := [][]string{{"ID", "NAME", "ROLE", "CREATED", "CREATED BY"}}
	for _, m := range members {
		rows = append(rows, []string{m.ID, m.Name, string(m.Role), m.CreatedAt.UTC().Format(time.DateOnly), m.CreatedBy})
	}
	return output.Columns(cmd.OutOrStdout(), rows)
}

func newSetRole(a *access, p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "set-role ID admin|editor|viewer --api API --team TEAM",
		Short: "Give a member another role",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			role, err := roles.ParseRole(args[1])
			if err != nil {
				return err
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if err := p.require(a, true); err != nil {
					return err
				}
				member, err := a.manager.SetRole(ctx, p.api, p.team, args[0], role)
				if member == nil {
					return explained(err)
				}
				return errors.Join(explained(err), exit.Failed(a.printMembers(cmd, []*store.Member{member})))
			})
		},
	}
}

func newMemberRemove(a *access, p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID --api API --team TEAM",
		Short: "Take a member out of a team; the token is refused from then on",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if err := p.require(a, true); err != nil {
					return err
				}
				return explained(a.manager.RemoveMember(ctx, p.api, p.team, args[0]))
			})
		},
	}
}
