package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/cmd/tollgate/cli/check"
	"tollgate/cmd/tollgate/cli/clients"
	"tollgate/cmd/tollgate/cli/limits"
	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/settings"
	"tollgate/cmd/tollgate/storage"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/policyfile"
)

// knownNames refuses names of which nothing was found and that the policy, if one
// is given, does not have. A broken policy is in the way of nothing.
func (a *access) knownNames(filter store.Filter, found int) error {
	if found > 0 {
		return nil
	}
	set := a.readablePolicy()
	if set == nil {
		return nil
	}
	return set.KnowsNames(filter.API, filter.Plan, filter.Environment)
}

// access is how a command that manages keys reaches the store, and in whose
// name.
type access struct {
	settings.Shared
	tokenFile string
	output    output.Format
	confirm   replicaCount // of revoke and apply

	storage *storage.Store
	files   []policyfile.File // of the policy; none where that is not needed
	rules   *policy.Set       // nil where no policy is needed
	who     roles.Actor
	hasher  *keys.Hasher
	manager *admin.Manager
}

// needs says what a command cannot do without.
type needs uint8

const (
	storeAndPolicy needs = 1 << iota
	thePepper            // that of the servers: secrets are hashed

	storeOnly needs = 0
)

// flags adds the flags of access to a command and all below it.
func (a *access) flags(cmd *cobra.Command) {
	a.output = output.Table
	a.storeFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().VarP(&a.output, "output", "o", "table, json or yaml")
}

// storeFlags adds those that say where the store is, and in whose name it is used.
func (a *access) storeFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&a.Shared.Store, "store", settings.EmbeddedStore, "where the keys are: memory (that of the tollgate serve on this machine), or a URL such as redis://HOST:PORT")
	f.StringVar(&a.Socket, "store-socket", "", "unix socket of the memory store (default: where tollgate serve has it)")
	f.StringVar(&a.Policy, "policy", "", "policy file or directory, the same as the server's; needed where a key is made or gets other rights")
	f.StringVar(&a.PepperFile, "pepper-file", "", "file with the secret that keys are hashed with, the same as the server's; or the secret itself in TOLLGATE_PEPPER")
	f.StringVar(&a.OlderPeppers, "older-peppers", "", "files with earlier peppers, as the server has them")
	f.StringVar(&a.tokenFile, "token-file", "", "file with a member's token, to act as that member; or the token itself in "+settings.TokenVariable)
}

// StoreFlags adds the flags of the store alone, for a command that prints in its own way.
func (a *access) StoreFlags(cmd *cobra.Command) { a.storeFlags(cmd.PersistentFlags()) }

// WithStore lets such a command work with the store.
func (a *access) WithStore(cmd *cobra.Command, work func(ctx context.Context, c redis.UniversalClient, who roles.Actor) error) error {
	return a.run(cmd, storeOnly, func(ctx context.Context) error { return work(ctx, a.storage.Client, a.who) })
}

// WithWorld lets a command decide by the policy and what the store holds.
func (a *access) WithWorld(cmd *cobra.Command, work func(ctx context.Context, w *check.World) error) error {
	return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
		return work(ctx, &check.World{
			Client: a.storage.Client, Hasher: a.hasher, Who: a.who, Files: a.files,
			Secret: func() (string, error) { return readSecret(cmd.InOrStdin(), cmd.ErrOrStderr()) },
		})
	})
}

// KeyFlags adds the flags of commands about keys, the output's included.
func (a *access) KeyFlags(cmd *cobra.Command) { a.flags(cmd) }

// ConfirmFlag adds the flag that says how many replicas have to confirm a change.
func (a *access) ConfirmFlag(cmd *cobra.Command) { a.confirm.add(cmd.Flags()) }

// WithClients lets a command work with the clients that present access tokens.
func (a *access) WithClients(cmd *cobra.Command, n clients.Need, work func(ctx context.Context, o clients.Open) error) error {
	needs := map[clients.Need]needs{clients.Pepper: thePepper, clients.Policy: storeAndPolicy | thePepper}[n]
	return a.run(cmd, needs, func(ctx context.Context) error {
		return work(ctx, clients.Open{Manager: a.manager, Output: a.output, KnowsIssuer: a.knowsIssuer, Failed: explained})
	})
}

// knowsIssuer refuses the issuer of a client that the policy, if one is given, does not have. A
// broken policy is in the way of nothing.
func (a *access) knowsIssuer(api, issuer string) error {
	if set := a.readablePolicy(); set != nil {
		return set.KnowsIssuer(api, issuer)
	}
	return nil
}

// readablePolicy is the policy, nil if none is given or it is broken.
func (a *access) readablePolicy() *policy.Set {
	if a.Policy == "" {
		return nil
	}
	files, err := policyfile.ReadFiles(a.Policy)
	if err != nil {
		return nil
	}
	set, err := policyfile.Compile(files...)
	if err != nil {
		return nil
	}
	return set
}

// WithPolicy lets a command work with the store and the policy.
func (a *access) WithPolicy(cmd *cobra.Command, work func(ctx context.Context, o limits.Open) error) error {
	return a.run(cmd, storeAndPolicy, func(ctx context.Context) error {
		return work(ctx, limits.Open{Store: a.storage.Client, Policy: a.rules, Manager: a.manager, Output: a.output})
	})
}

// WithManager lets a command change keys, teams and members.
func (a *access) WithManager(cmd *cobra.Command, work func(ctx context.Context, m *admin.Manager, rules *policy.Set) error) error {
	return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error { return work(ctx, a.manager, a.rules) })
}

// HistoryFlags adds the flags of the ClickHouse that has the history of usage.
func (a *access) HistoryFlags(cmd *cobra.Command) {
	a.Shared.HistoryFlags(cmd.PersistentFlags(), "that answers what the store no longer can, the same as the server's")
}

// Retention returns how long the store keeps the usage of an API: what the policy says, if one is
// given that can be read, else what holds by default.
func (a *access) Retention() func(api string) policy.Usage {
	set := a.readablePolicy()
	return func(name string) policy.Usage {
		if set != nil {
			if api := set.API(name); api != nil {
				return *api.Usage()
			}
		}
		return policy.DefaultUsage()
	}
}

// run opens what a command needs, lets it work until a signal, and closes it.
func (a *access) run(cmd *cobra.Command, n needs, work func(ctx context.Context) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := a.open(ctx, cmd, n); err != nil {
		return err
	}
	return errors.Join(work(ctx), exit.Failed(a.storage.Close()))
}

func (a *access) open(ctx context.Context, cmd *cobra.Command, n needs) error {
	if err := a.fillFromEnv(cmd.Flags()); err != nil {
		return err
	}
	rules, err := a.readRules(n)
	if err != nil {
		return err
	}
	pepper, err := a.Pepper()
	if err != nil {
		return err
	}
	older, err := a.OlderMethods()
	if err != nil {
		return err
	}
	token, err := settings.Token(a.tokenFile)
	if err != nil {
		return err
	}
	if a.storage, err = storage.Connect(&a.Shared, cmd.ErrOrStderr()); err != nil {
		return err
	}
	if a.who, err = a.actor(ctx, token); err != nil {
		return errors.Join(explained(err), exit.Failed(a.storage.Close()))
	}
	a.hasher = keys.NewHasher(pepper, older...)
	a.manager = admin.NewManager(store.New(a.storage.Client), a.hasher, rules,
		audit.New(a.storage.Client, 0), a.who, time.Now)
	if a.Shared.Store == settings.EmbeddedStore {
		a.manager.AllowUnpeppered()
	}
	if n&thePepper != 0 {
		if err := standing.CheckPepper(ctx, a.storage.Client, a.hasher); err != nil {
			return errors.Join(explained(err), exit.Failed(a.storage.Close()))
		}
	}
	if a.confirm.given {
		a.manager.RequireReplicas(a.confirm.n, confirmTime)
	}
	return nil
}

// fillFromEnv sets the flags of access that the command line left out.
func (a *access) fillFromEnv(flags *pflag.FlagSet) error {
	storeGiven := flags.Changed("store")
	for _, name := range []string{"store", "store-socket", "policy", "pepper-file", "older-peppers", "token-file", settings.ClickHouseFlag, settings.ClickHousePasswordFlag, confirmFlag} {
		value, ok := os.LookupEnv(settings.Variable(name))
		if !ok || value == "" || flags.Changed(name) || flags.Lookup(name) == nil {
			continue
		}
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("%s: %w", settings.Variable(name), err)
		}
		storeGiven = storeGiven || name == "store"
	}
	a.FromEnvironment(storeGiven)
	return a.CheckPepper()
}

// readRules compiles the policy where one is needed: a broken policy must not
// stand in the way of a revocation.
func (a *access) readRules(n needs) (keys.Rules, error) {
	if n&storeAndPolicy == 0 {
		return noRules{}, nil
	}
	if a.Policy == "" {
		return nil, fmt.Errorf("no policy, which says what a key may have: give --policy FILE|DIR or %s, the same as the server's", settings.Variable("policy"))
	}
	files, err := policyfile.ReadFiles(a.Policy)
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	if a.rules, err = policyfile.Compile(files...); err != nil {
		return nil, fmt.Errorf("--policy:\n%w", err)
	}
	a.files = files
	return a.rules, nil
}

// noRules is for the commands that give a key no rights.
type noRules struct{}

var errNoRules = errors.New("this needs a policy: give --policy")

func (noRules) ValidateKey(*keys.Key) error                { return errNoRules }
func (noRules) HoldsSecret(string, string) bool            { return false }
func (noRules) Limit(string, string, string) (int64, bool) { return 0, false }
func (noRules) Cap(string, string, string) (int, bool)     { return 0, false }
func (noRules) ValidateLimits(*keys.Key) error             { return errNoRules }
func (noRules) ValidateExtra(*keys.Key, keys.Extra) error  { return errNoRules }
func (noRules) ValidateSecret(*keys.Key, string) error     { return errNoRules }
func (noRules) MaxAddresses(string) int                    { return 0 }
func (noRules) Prefix(string, string) (string, error)      { return "", errNoRules }

// actor is the member with the token, or the operator under the name of the
// login.
func (a *access) actor(ctx context.Context, token string) (roles.Actor, error) {
	if token != "" {
		member, err := store.New(a.storage.Client).MemberByToken(ctx, token)
		if err != nil {
			return roles.Actor{}, err
		}
		return member.Actor(), nil
	}
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	return roles.Actor{Name: name, Operator: true}, nil
}
