package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tollgate/policy/keys"
)

// place is the team that a command is about.
type place struct{ api, team string }

// require takes what no flag says from the member who acts.
func (p *place) require(a *access, team bool) error {
	who := a.who
	if !who.Operator {
		p.api, p.team = cmp.Or(p.api, who.API), cmp.Or(p.team, who.Team)
	}
	switch {
	case p.api == "":
		return errors.New("which API? give --api")
	case team && p.team == "":
		return errors.New("which team? give --team")
	}
	return nil
}

func newTeams() *cobra.Command {
	a := &access{}
	cmd := group("teams", "Add, list and delete teams, which own keys", "")
	a.flags(cmd)
	cmd.AddCommand(newTeamCreate(a), newTeamList(a), newSetPlans(a), newTeamDelete(a))
	return cmd
}

func newTeamCreate(a *access) *cobra.Command {
	p, plans := place{}, []string{}
	cmd := &cobra.Command{
		Use:   "create NAME --api API [--plans PLAN,...]",
		Short: "Add a team",
		Long: `Add a team. Its members may give their keys the plans that are named here, and make
their limits smaller; any other plan or a larger limit is for the operator to give.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			needs := storeOnly
			if len(plans) > 0 {
				needs = storeAndPolicy
			}
			return a.run(cmd, needs, func(ctx context.Context) error {
				if err := p.require(a, false); err != nil {
					return err
				}
				if err := a.knowPlans(p.api, plans); err != nil {
					return failed(err)
				}
				if _, err := a.manager.CreateTeam(ctx, p.api, args[0], plans...); err != nil {
					return explained(err)
				}
				team, err := a.manager.Team(ctx, p.api, args[0]) // there may be keys already
				if err != nil {
					return explained(err)
				}
				return failed(a.printTeams(cmd, []*keys.Team{team}, ""))
			})
		},
	}
	cmd.Flags().StringVar(&p.api, "api", "", "API that the team has keys of")
	cmd.Flags().StringSliceVar(&plans, "plans", nil, "plans that members may give their keys, joined with commas; default: none")
	return cmd
}

// knowPlans refuses a plan that the policy does not have.
func (a *access) knowPlans(api string, plans []string) error {
	for _, plan := range plans {
		if err := a.rules.KnowsPlan(api, plan); err != nil {
			return err
		}
	}
	return nil
}

func newSetPlans(a *access) *cobra.Command {
	p := place{}
	cmd := &cobra.Command{
		Use:   "set-plans NAME PLAN,...|none --api API",
		Short: "Say which plans members may give the keys of a team",
		Long: `Say which plans members may give the keys of a team, in place of those before. Keys
that are there keep theirs.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeAndPolicy, func(ctx context.Context) error {
				if err := p.require(a, false); err != nil {
					return err
				}
				var plans []string
				if args[1] != "none" {
					plans = strings.Split(args[1], ",")
				}
				if err := a.knowPlans(p.api, plans); err != nil {
					return failed(err)
				}
				team, err := a.manager.SetPlans(ctx, p.api, args[0], plans)
				if team == nil {
					return explained(err)
				}
				return errors.Join(explained(err), failed(a.printTeams(cmd, []*keys.Team{team}, "")))
			})
		},
	}
	cmd.Flags().StringVar(&p.api, "api", "", "API that the team has keys of")
	return cmd
}

func newTeamList(a *access) *cobra.Command {
	api, cursor, limit := "", "", 0
	cmd := &cobra.Command{
		Use:   "list [--api API]",
		Short: "Show the teams",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				teams, next, err := a.manager.Teams(ctx, api, cursor, limit)
				if err != nil {
					return explained(err)
				}
				if err := a.knownNames(keys.Filter{API: api}, len(teams)); err != nil {
					return err
				}
				return failed(a.printTeams(cmd, teams, next))
			})
		},
	}
	cmd.Flags().StringVar(&api, "api", "", "only teams of this API")
	cmd.Flags().IntVar(&limit, "limit", keys.DefaultPage, "how many at most")
	cmd.Flags().StringVar(&cursor, "cursor", "", "where an earlier list ended")
	return cmd
}

func newTeamDelete(a *access) *cobra.Command {
	p := place{}
	cmd := &cobra.Command{
		Use:   "delete NAME --api API",
		Short: "Delete a team that has neither members nor keys",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if err := p.require(a, false); err != nil {
					return err
				}
				return explained(a.manager.DeleteTeam(ctx, p.api, args[0]))
			})
		},
	}
	cmd.Flags().StringVar(&p.api, "api", "", "API that the team belongs to")
	return cmd
}

func orDash(s string) string { return cmp.Or(s, "-") }

// shownTeam is a team as programs get it.
type shownTeam struct {
	*keys.Team
	Members int `json:"members"`
	Keys    int `json:"keys"`
}

func (a *access) printTeams(cmd *cobra.Command, teams []*keys.Team, next string) error {
	out := cmd.OutOrStdout()
	if a.output == outputTable {
		rows := [][]string{{"API", "TEAM", "PLANS", "MEMBERS", "KEYS", "CREATED", "CREATED BY"}}
		for _, t := range teams {
			rows = append(rows, []string{t.API, t.Name, orDash(strings.Join(t.Plans, ",")), fmt.Sprint(t.Members), fmt.Sprint(t.Keys), date(t.CreatedAt), t.CreatedBy})
		}
		if next != "" {
			cmd.PrintErrf("there are more: --cursor %s\n", next)
		}
		return columns(out, rows)
	}
	all := []shownTeam{}
	for _, t := range teams {
		all = append(all, shownTeam{t, t.Members, t.Keys})
	}
	return a.output.printRecord(out, struct {
		Teams []shownTeam `json:"teams"`
		Next  string      `json:"next,omitempty"`
	}{all, next})
}

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
	cmd.AddCommand(newMemberAdd(a, p), newMemberList(a, p), newSetRole(a, p), newMemberRemove(a, p))
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
		Short: "Add a member and print the token, this once",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			role, err := keys.ParseRole(text)
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
				return errors.Join(explained(err), failed(a.printToken(cmd, newToken{member.ID, token})))
			})
		},
	}
	cmd.Flags().StringVar(&text, "role", "", "admin, editor or viewer")
	return cmd
}

func (a *access) printToken(cmd *cobra.Command, made newToken) error {
	out := cmd.OutOrStdout()
	if a.output != outputTable {
		return a.output.printRecord(out, made)
	}
	if err := columns(out, fields("id", made.ID, "token", made.Token)); err != nil {
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
				return failed(a.printMembers(cmd, members))
			})
		},
	}
}

func (a *access) printMembers(cmd *cobra.Command, members []*keys.Member) error {
	if a.output != outputTable {
		return a.output.printRecord(cmd.OutOrStdout(), struct {
			Members []*keys.Member `json:"members"`
		}{append([]*keys.Member{}, members...)})
	}
	rows := [][]string{{"ID", "NAME", "ROLE", "CREATED", "CREATED BY"}}
	for _, m := range members {
		rows = append(rows, []string{m.ID, m.Name, string(m.Role), m.CreatedAt.UTC().Format(time.DateOnly), m.CreatedBy})
	}
	return columns(cmd.OutOrStdout(), rows)
}

func newSetRole(a *access, p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "set-role ID admin|editor|viewer --api API --team TEAM",
		Short: "Give a member another role",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			role, err := keys.ParseRole(args[1])
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
				return errors.Join(explained(err), failed(a.printMembers(cmd, []*keys.Member{member})))
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
