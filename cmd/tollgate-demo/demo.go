// Command tollgate-demo shows tollgate: the server's own binary, four published APIs, an
// application that echoes what it received, and a real Envoy in front of it all.
//
// It exits with 0, and with 1 if something failed or an answer was wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case !errors.Is(err, errWrong): // which the table has told
		_, _ = fmt.Fprintf(stderr, "tollgate-demo: %v\n", err)
	}
	return 1
}

// errWrong says that an answer was not the expected one.
var errWrong = errors.New("wrong answers")

const (
	demoPort = 10000
	// demoPepper is published with the source, like the demo keys.
	demoPepper = "the pepper of tollgate demo"
	// demoStart bounds the start of Envoy, which takes well under a second.
	demoStart = 30 * time.Second
)

func newRoot() *cobra.Command {
	d := &demo{}
	cmd := &cobra.Command{
		Use:   "tollgate-demo [--once] [--port PORT]",
		Short: "Show four APIs behind a real Envoy",
		Long: `Start tollgate with an embedded store and demo keys, an application that echoes
what it receives, and a real Envoy in front of both, for four APIs. Print curl
lines to paste, and stay until Ctrl-C, which leaves nothing running. With --once,
send the requests, print what came back, and end: with 0 if all answers are right.

Envoy is ENVOY_BIN, else .tools/envoy, else envoy on PATH.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.port < 0 || d.port > 65535 {
				return fmt.Errorf("--port: %d is no port", d.port)
			}
			d.out = cmd.OutOrStdout()
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&d.once, "once", false, "send the requests, print a table of the answers, and end")
	cmd.Flags().IntVar(&d.port, "port", demoPort, "Envoy's port on 127.0.0.1; if it is taken, another one")
	cmd.Flags().StringVar(&d.binary, "binary", "", "tollgate to show (default: beside this program, else on PATH)")
	return cmd
}

// demo is a running demo.
type demo struct {
	once   bool
	port   int
	binary string
	out    io.Writer

	policies []policyfile.File
	entries  []keyfile.Entry
	shots    []shot
	hasher   *keys.Hasher
	server   *server
	envoy    *envoytest.Envoy
	closers  []func() error // in the order of starting
}

// run starts everything, shows it, and leaves nothing behind.
func (d *demo) run(ctx context.Context) (err error) {
	begin := time.Now()
	stop, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer release()
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.start(stop); err != nil {
		if stop.Err() != nil {
			return nil // Ctrl-C during the start
		}
		return err
	}
	if _, err := d.shots[0].send(stop, d.envoy.Addr()); err != nil && stop.Err() == nil {
		return fmt.Errorf("the first request: %w", err)
	}
	took := time.Since(begin)
	if d.once {
		return d.check(stop, took)
	}
	if err := d.show(took); err != nil {
		return err
	}
	select {
	case <-stop.Done():
		return nil
	case <-d.envoy.Done():
		return fmt.Errorf("the Envoy has ended:\n%s", d.envoy.Log())
	case <-d.server.done:
		return fmt.Errorf("tollgate has ended:\n%s", &d.server.log)
	}
}

// start starts the parts, each with what the ones before it have.
func (d *demo) start(ctx context.Context) error {
	binary, err := envoytest.Find()
	if err != nil {
		return err
	}
	d.hasher = keys.NewHasher([]byte(demoPepper))
	if err := d.load(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tollgate-demo-")
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() error { return os.RemoveAll(dir) })
	if d.server, err = startServer(ctx, d.binary, dir, d.policies); err != nil {
		return err
	}
	d.closers = append(d.closers, d.server.stop)
	if err := d.addKeys(ctx, d.server.store()); err != nil {
		return err
	}
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	d.closers = append(d.closers, upstream.Close)
	return d.startEnvoy(ctx, binary, d.server.grpc(), upstream.Addr())
}

// load reads the embedded policies, keys and requests of the four APIs.
func (d *demo) load() error {
	secrets := map[string]string{}
	for _, api := range testdata.APIs() {
		policyFile, err := testdata.File(api, "policy.yaml")
		if err != nil {
			return err
		}
		d.policies = append(d.policies, policyfile.File{Name: api + ".yaml", Data: policyFile})
		entries, err := testdata.Keys(api)
		if err != nil {
			return err
		}
		for _, e := range entries {
			secrets[e.Key.ID] = e.Secret
		}
		d.entries = append(d.entries, entries...)
	}
	for _, api := range testdata.APIs() {
		blocks, err := testdata.Script(api)
		if err != nil {
			return err
		}
		for _, b := range blocks {
			if !b.Demo {
				continue
			}
			if err := b.Expand(secrets, d.hasher.Handle); err != nil {
				return err
			}
			d.shots = append(d.shots, shot{api: api, block: b})
		}
	}
	if len(d.shots) == 0 {
		return errors.New("no request is marked [demo]")
	}
	return nil
}

// noRules lets keys be added that the policies cannot use: some of the demo's records
// are broken on purpose.
type noRules struct{}

func (noRules) ValidateKey(*keys.Key) error                { return nil }
func (noRules) ValidateLimits(*keys.Key) error             { return nil }
func (noRules) ValidateExtra(*keys.Key, keys.Extra) error  { return nil }
func (noRules) ValidateSecret(*keys.Key, string) error     { return nil }
func (noRules) MaxAddresses(string) int                    { return 0 }
func (noRules) HoldsSecret(string, string) bool            { return false }
func (noRules) Limit(string, string, string) (int64, bool) { return 0, false }
func (noRules) Cap(string, string, string) (int, bool)     { return 0, false }
func (noRules) Prefix(string, string) (string, error)      { return "", nil }

// addKeys adds the keys to the store at a unix socket.
func (d *demo) addKeys(ctx context.Context, socket string) error {
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, Protocol: 2, DisableIdentity: true})
	defer client.Close()
	manager := admin.NewManager(store.New(client), d.hasher, noRules{}, audit.New(client, 0),
		roles.Actor{Name: "tollgate demo", Operator: true}, time.Now)
	_, err := manager.Seed(ctx, d.entries, admin.SeedSource{Source: "the demo"})
	return err
}

func (d *demo) startEnvoy(ctx context.Context, binary, tollgate, upstream string) error {
	bootstrap, err := envoy.Bootstrap()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, demoStart)
	defer cancel()
	d.envoy, err = envoytest.Start(ctx, envoytest.Settings{
		Binary: binary, Bootstrap: bootstrap, Tollgate: tollgate, Upstream: upstream, ListenPort: portOrAny(d.port),
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() error {
		select {
		case <-d.envoy.Done(): // reported already
			_ = d.envoy.Stop() // it still removes its files
			return nil
		default:
			return d.envoy.Stop()
		}
	})
	return nil
}

// portOrAny returns the port if nobody listens there, else 0: any other one.
func portOrAny(port int) int {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0
	}
	_ = l.Close()
	return port
}

// close ends what was started, the last first.
func (d *demo) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}
