package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/store"
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
					return exit.Failed(err)
				}
				if _, err := a.manager.CreateTeam(ctx, p.api, args[0], plans...); err != nil {
					return explained(err)
				}
				team, err := a.manager.Team(ctx, p.api, args[0]) // there may be keys already
				if err != nil {
					return explained(err)
				}
				return exit.Failed(a.printTeams(cmd, []*store.Team{team}, ""))
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
					return exit.Failed(err)
				}
				team, err := a.manager.SetPlans(ctx, p.api, args[0], plans)
				if team == nil {
					return explained(err)
				}
				return errors.Join(explained(err), exit.Failed(a.printTeams(cmd, []*store.Team{team}, "")))
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
				if err := a.knownNames(store.Filter{API: api}, len(teams)); err != nil {
					return err
				}
				return exit.Failed(a.printTeams(cmd, teams, next))
			})
		},
	}
	cmd.Flags().StringVar(&api, "api", "", "only teams of this API")
	cmd.Flags().IntVar(&limit, "limit", store.DefaultPage, "how many at most")
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

// shownTeam is a team as programs get it.
type shownTeam struct {
	*store.Team
	Members int `json:"members"`
	Keys    int `json:"keys"`
}

func (a *access) printTeams(cmd *cobra.Command, teams []*store.Team, next string) error {
	out := cmd.OutOrStdout()
	if a.output == output.Table {
		rows := [][]string{{"API", "TEAM", "PLANS", "MEMBERS", "KEYS", "CREATED", "CREATED BY"}}
		for _, t := range teams {
			rows = append(rows, []string{t.API, t.Name, output.OrDash(strings.Join(t.Plans, ",")), fmt.Sprint(t.Members), fmt.Sprint(t.Keys), output.Date(t.CreatedAt), t.CreatedBy})
		}
		if next != "" {
			cmd.PrintErrf("there are more: --cursor %s\n", next)
		}
		return output.Columns(out, rows)
	}
	all := []shownTeam{}
	for _, t := range teams {
		all = append(all, shownTeam{t, t.Members, t.Keys})
	}
	return a.output.Print(out, struct {
		Teams []shownTeam `json:"teams"`
		Next  string      `json:"next,omitempty"`
	}{all, next})
}
