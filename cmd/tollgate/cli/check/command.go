// Package check is `tollgate check`: what would be decided about a request, and why.
package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/policyfile"
)

// World is what decisions are made of.
type World struct {
	Client redis.UniversalClient
	Hasher *keys.Hasher
	Who    roles.Actor
	Files  []policyfile.File // of the policy
	Secret func() (string, error)
}

// Access is how the command reaches policy and store, and in whose name.
type Access interface {
	// StoreFlags adds the flags that say so.
	StoreFlags(cmd *cobra.Command)
	// WithWorld opens both, lets work have them, and closes them.
	WithWorld(cmd *cobra.Command, work func(ctx context.Context, w *World) error) error
}

// Command returns the command.
func Command(a Access) *cobra.Command {
	o := &options{output: output.Table, now: time.Now}
	cmd := &cobra.Command{
		Use:   "check (--api NAME | --host HOST) --path PATH [flags] < SECRET",
		Short: "Say what would be decided about a request, and why",
		Long: `Say what would be decided about a request, and why: each step with the line of the
policy that it follows, the counters before and after, and the exact answer. The secret
is read from standard input, or from a prompt that does not show it.

Nothing is charged, noted or taken: the request is not made. What the policy and the
store say is what counts. A server that has leased units of a limit may still allow
what the store would refuse; LEASED is how many units that can be.

Exits with 0 if the request would be allowed, with 1 if not.

With --replay it judges past decisions instead, as a server has logged them, and says
which of them the policy would change by route, scope, address and plan; what limits
say is left out. Keys are as the store has them now. Exits with 1 if any would change.

With --decision it says what the error log knows of a past decision (tollgate errors),
where the policy says so, and what policy and key, as they are now, would make of it.`,
		Args: flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return a.WithWorld(cmd, func(ctx context.Context, w *World) error {
				switch {
				case o.replay != "":
					return o.again(ctx, cmd, w)
				case o.decision != "":
					return o.lookBack(ctx, cmd, w)
				}
				return o.answer(ctx, cmd, w)
			})
		},
	}
	a.StoreFlags(cmd)
	o.flags(cmd)
	return cmd
}

// flagsOnly does not repeat what it does not take: it could be a secret.
func flagsOnly(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only; the secret is read from standard input", cmd.CommandPath())
	}
	return nil
}

// options are what the command line says.
type options struct {
	api, host, route, environment string
	method, path, ip              string
	headers                       []string
	keyless                       bool
	replay, decision              string
	output                        output.Format
	now                           func() time.Time

	probe policy.Probe
}

func (o *options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.api, "api", "", "name of the API, as the proxy's configuration gives it")
	f.StringVar(&o.host, "host", "", "host that the client asks for; it names the API where --api does not")
	f.StringVar(&o.route, "route", "", "name of the route, where the proxy's configuration gives it")
	f.StringVar(&o.environment, "env", "", "environment that the proxy's configuration gives; without it and --host the one that the key's prefix says")
	f.StringVar(&o.method, "method", "GET", "method of the request")
	f.StringVar(&o.path, "path", "", "path of the request, with its query")
	f.StringVar(&o.ip, "ip", "", "address of the client; without it, it is not known")
	f.StringArrayVar(&o.headers, "header", nil, "another header, NAME:VALUE; may be repeated")
	f.BoolVar(&o.keyless, "no-key", false, "the request comes without a key; standard input is not read")
	f.StringVar(&o.replay, "replay", "", "judge the decisions of this log (lines of JSON; - is standard input) by --policy instead, and say which would change")
	f.StringVar(&o.decision, "decision", "", "explain the decision with this id, as the error log tells of it")
	f.VarP(&o.output, "output", "o", "table, json or yaml")
}

// check makes the probe of the flags, all but the secret.
func (o *options) check() error {
	o.probe = policy.Probe{
		API: o.api, Host: o.host, Route: o.route, Environment: o.environment, Method: o.method, Target: o.path,
	}
	given := o.host + o.path + o.route + o.environment + o.ip + strings.Join(o.headers, "")
	switch {
	case o.replay != "" && (given+o.api+o.decision != "" || o.keyless):
		return errors.New("check: --replay takes its requests from the log; give --policy and -o alone")
	case o.decision != "" && (given != "" || o.keyless):
		return errors.New("check: --decision takes the request from the error log; give --api, --policy and -o alone")
	case o.replay != "" || o.decision != "":
		return nil
	case o.api == "" && o.host == "":
		return errors.New("check: want --api NAME or --host HOST")
	case !strings.HasPrefix(o.path, "/"):
		return errors.New("--path: want the path of the request, like /v1/jobs")
	}
	if o.ip != "" {
		address, err := netip.ParseAddr(o.ip)
		if err != nil {
			return errors.New("--ip: want an IPv4 or IPv6 address")
		}
		o.probe.Address = address.Unmap().WithZone("")
	}
	for _, text := range o.headers {
		name, value, ok := strings.Cut(text, ":")
		if name = strings.ToLower(strings.TrimSpace(name)); !ok || name == "" {
			return errors.New("--header: want NAME:VALUE") // not repeated: it could hold a secret
		}
		o.probe.Headers = append(o.probe.Headers, policy.Header{Name: name, Value: strings.TrimSpace(value)})
	}
	return nil
}

// answer decides and prints.
func (o *options) answer(ctx context.Context, cmd *cobra.Command, w *World) error {
	set, places, err := policyfile.CompilePlaced(w.Files...)
	if err != nil {
		return exit.Failed(err)
	}
	if !o.keyless {
		if o.probe.Secret, err = secret(w.Secret); err != nil {
			return err
		}
	}
	request, err := set.Request(o.probe)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	d, err := decide(ctx, w, set, request, o.now)
	if err != nil {
		return exit.Failed(exit.Plain(err))
	}
	report := d.report(request, places)
	if o.output == output.Table {
		err = report.print(cmd.OutOrStdout())
	} else {
		err = o.output.Print(cmd.OutOrStdout(), report)
	}
	if err == nil && !report.Allowed {
		return &exit.Failure{}
	}
	return exit.Failed(err)
}

// secret reads what the client presents. The spaces around it are none of it.
func secret(read func() (string, error)) (string, error) {
	text, err := read()
	if err != nil {
		return "", exit.Failed(err)
	}
	text = strings.Trim(text, " \t\r\n")
	switch {
	case text == "":
		return "", errors.New("check: no secret on standard input; a request without one is --no-key")
	case strings.ContainsAny(text, "\r\n"):
		return "", errors.New("check: standard input holds more than one line, which is no secret")
	}
	return text, nil
}
