// Package bootstrap is `tollgate members bootstrap`: the first team of an installation on
// Kubernetes, and its admin, whose token goes into a Secret and nowhere else.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// Access is how the command reaches the store.
type Access interface {
	// WithManager opens the store and the policy, lets work have them, and closes them.
	WithManager(cmd *cobra.Command, work func(ctx context.Context, m *admin.Manager, rules *policy.Set) error) error
}

// accountFolder is where a pod finds its service account.
const accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

// undoTime is less than the 30 s that Kubernetes gives a pod to end.
const undoTime = 20 * time.Second

// Command returns the command.
func Command(a Access) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "bootstrap --api API --team TEAM --name NAME --secret SECRET",
		Short: "On Kubernetes: make a team and its first admin, once, with the token in a Secret",
		Long: `On Kubernetes: make a team, if there is none, and its first admin, and put the admin's
token into a Secret of the pod's namespace. If the Secret is there, nothing is made; it
is an error if it has no token, or if the store has no such team. If it is not there, but
the team has the admin, that is an error too: the token was in it, and is nowhere else.
The pod's service account must be allowed to create secrets, and to get this one.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s: takes flags only", cmd.CommandPath()) // not repeated: one could be a secret
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			// --api and --team are those of the commands about members.
			o.api, _ = cmd.Flags().GetString("api")
			o.team, _ = cmd.Flags().GetString("team")
			if err := o.check(); err != nil {
				return err
			}
			api, err := inCluster(o.account)
			if err != nil {
				return err
			}
			return a.WithManager(cmd, func(ctx context.Context, m *admin.Manager, rules *policy.Set) error {
				if err := rules.KnowsNames(o.api, "", ""); err != nil {
					return exit.Failed(err)
				}
				for _, plan := range o.plans {
					if err := rules.KnowsPlan(o.api, plan); err != nil {
						return exit.Failed(err)
					}
				}
				return exit.Failed(o.run(ctx, api, m, cmd.OutOrStdout()))
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.name, "name", "", "name of the admin")
	f.StringSliceVar(&o.plans, "plans", nil, "plans that members may give their keys, joined with commas; default: none")
	f.StringVar(&o.secret, "secret", "", "name of the Secret")
	f.StringVar(&o.account, "service-account", accountFolder, "folder with the pod's service account")
	return cmd
}

type options struct {
	api, team, name, secret, account string
	plans                            []string
}

func (o *options) check() error {
	for flag, value := range map[string]string{"api": o.api, "team": o.team, "name": o.name, "secret": o.secret} {
		if value == "" {
			return fmt.Errorf("--%s is missing", flag)
		}
	}
	return nil
}

// secrets are the Secrets of the pod's namespace.
type secrets interface {
	// get returns the data of one; ok is false if it is not there.
	get(ctx context.Context, name string) (data map[string]string, ok bool, err error)
	// create makes one. errExists: it is there.
	create(ctx context.Context, name string, data map[string]string) error
}

// members are the teams and their members: a *admin.Manager.
type members interface {
	CreateTeam(ctx context.Context, api, team string, plans ...string) (*store.Team, error)
	Members(ctx context.Context, api, team string) ([]*store.Member, error)
	AddMember(ctx context.Context, api, team, name string, role roles.Role) (*store.Member, string, error)
	RemoveMember(ctx context.Context, api, team, id string) error
}

// run makes the team, the member and the Secret, or finds the Secret and does nothing.
func (o *options) run(ctx context.Context, s secrets, m members, out io.Writer) error {
	data, there, err := s.get(ctx, o.secret)
	if err != nil {
		return err
	}
	if there {
		return o.found(ctx, data, m, out)
	}
	if _, err := m.CreateTeam(ctx, o.api, o.team, o.plans...); err != nil && !errors.Is(err, store.ErrTeamExists) {
		return exit.Plain(err)
	}
	if err := o.lost(ctx, m); err != nil {
		return err
	}
	member, token, err := m.AddMember(ctx, o.api, o.team, o.name, roles.Admin)
	if member == nil {
		return exit.Plain(err)
	}
	// A member whose audit entry has no outcome is one all the same.
	made := s.create(ctx, o.secret, map[string]string{"token": token, "member": member.ID, "api": o.api, "team": o.team})
	if made != nil {
		return o.undo(ctx, s, m, member.ID, token, out, made)
	}
	_, said := fmt.Fprintf(out, "made the admin %s (%s) of the team %s of api %s; the token is in the Secret %s\n", o.name, member.ID, o.team, o.api, o.secret)
	return errors.Join(err, said)
}

// found says that there is nothing to do, unless the Secret is another one, or of another store,
// which knows nothing of its token.
func (o *options) found(ctx context.Context, data map[string]string, m members, out io.Writer) error {
	if data["token"] == "" {
		return fmt.Errorf("the Secret %s is there, but has no token: it is for something else. Name another one (bootstrap.secretName)", o.secret)
	}
	if _, err := m.Members(ctx, o.api, o.team); errors.Is(err, store.ErrNoTeam) {
		return fmt.Errorf("the Secret %[1]s is there, but the store has no team %[2]s of api %[3]s, so its token is of another store or team. "+
			"For a new one delete the Secret and run this again; to go without, switch it off (bootstrap.enabled: false)", o.secret, o.team, o.api)
	}
	_, err := fmt.Fprintf(out, "the Secret %s is there: nothing to do\n", o.secret)
	return err
}

// lost returns an error if the team has the admin already, whose token was in the Secret.
func (o *options) lost(ctx context.Context, m members) error {
	all, err := m.Members(ctx, o.api, o.team)
	if err != nil {
		return exit.Plain(err)
	}
	for _, member := range all {
		if strings.EqualFold(member.Name, o.name) {
			return fmt.Errorf("the Secret %[1]s is not there, but the team %[2]s of api %[3]s has the admin %[4]s, whose token was in it and is nowhere else. "+
				"For a new token remove the member (tollgate members remove %[5]s --api %[3]s --team %[2]s) and run this again; "+
				"to go without, switch it off (bootstrap.enabled: false)", o.secret, o.team, o.api, o.name, member.ID)
		}
	}
	return nil
}

// undo takes the member out again whose token could not be kept, unless it was kept after all. A
// pod that is told to end, as at a Job's deadline, still has the time for it.
func (o *options) undo(ctx context.Context, s secrets, m members, id, token string, out io.Writer, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	data, there, err := s.get(ctx, o.secret)
	if err == nil && there && data["token"] == token {
		_, err := fmt.Fprintf(out, "made the admin %s (%s); the token is in the Secret %s\n", o.name, id, o.secret)
		return err
	}
	if err != nil {
		return fmt.Errorf("%w; and whether the Secret is there is not known: %w. If it is not, remove the member %s", why, err, id)
	}
	if err := m.RemoveMember(ctx, o.api, o.team, id); err != nil {
		return fmt.Errorf("%w; and the member %s could not be removed again: %w", why, id, exit.Plain(err))
	}
	if there { // another run was faster
		_, err := fmt.Fprintf(out, "the Secret %s is there by now: nothing to do\n", o.secret)
		return err
	}
	return why
}
