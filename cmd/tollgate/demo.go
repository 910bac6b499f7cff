package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/testdata"
)

const (
	demoPort = 10000
	// demoPepper is published with the source, like the demo keys.
	demoPepper = "the pepper of tollgate demo"
	// demoStart bounds the start of Envoy, which takes well under a second.
	demoStart = 30 * time.Second
	// demoStop bounds the end of calls under way.
	demoStop = 2 * time.Second
)

func newDemo() *cobra.Command {
	var once bool
	var port int
	cmd := &cobra.Command{
		Use:   "demo [--once] [--port PORT]",
		Short: "Show four APIs behind a real Envoy",
		Long: `Start Tollgate with an embedded store and demo keys, an application that echoes
what it receives, and a real Envoy in front of both, for four APIs. Print curl
lines to paste, and stay until Ctrl-C, which leaves nothing running. With --once,
send the requests, print what came back, and end: with 0 if all answers are right.

Envoy is ENVOY_BIN, else .tools/envoy, else envoy on PATH.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if port < 0 || port > 65535 {
				return fmt.Errorf("--port: %d is no port", port)
			}
			return failed(runDemo(cmd.Context(), &demo{once: once, port: port, out: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr()}))
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "send the requests, print a table of the answers, and end")
	cmd.Flags().IntVar(&port, "port", demoPort, "Envoy's port on 127.0.0.1; if it is taken, another one")
	return cmd
}

// demo is a running demo.
type demo struct {
	once        bool
	port        int
	out, stderr io.Writer

	policies *policy.Set
	entries  []keys.Entry
	shots    []shot
	hasher   *keys.Hasher
	store    *store
	envoy    *envoytest.Envoy
	closers  []func() error // in the order of starting
}

// runDemo starts everything, shows it, and leaves nothing behind.
func runDemo(ctx context.Context, d *demo) (err error) {
	begin := time.Now()
	stop, _, release := untilSignal(ctx)
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
	}
}

// start starts the parts, each with what the ones before it have.
func (d *demo) start(ctx context.Context) error {
	binary, err := envoytest.Find()
	if err != nil {
		return err
	}
	redis.SetLogger(redisLog{slog.New(slog.DiscardHandler)})
	d.hasher = keys.NewHasher([]byte(demoPepper))
	if err := d.load(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tollgate-demo-")
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() error { return os.RemoveAll(dir) })
	if err := d.openStore(ctx, filepath.Join(dir, "store.sock")); err != nil {
		return err
	}
	address := unixPrefix + filepath.Join(dir, "grpc.sock")
	if err := d.serve(address); err != nil {
		return err
	}
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	d.closers = append(d.closers, upstream.Close)
	return d.startEnvoy(ctx, binary, address, upstream.Addr())
}

// load reads the embedded policies, keys and requests of the four APIs.
func (d *demo) load() error {
	var files []policy.File
	secrets := map[string]string{}
	for _, api := range testdata.APIs() {
		policyFile, err := testdata.File(api, "policy.yaml")
		if err != nil {
			return err
		}
		files = append(files, policy.File{Name: api + "/policy.yaml", Data: policyFile})
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
	var err error
	d.policies, err = policy.Compile(files...)
	return err
}

func (d *demo) openStore(ctx context.Context, socket string) error {
	var err error
	if d.store, err = openEmbedded(socket); err != nil {
		return err
	}
	d.closers = append(d.closers, d.store.close)
	// Not checked against the policies: some records are broken on purpose.
	manager := keys.NewManager(keys.NewStore(d.store.client), d.hasher, noRules{}, keys.NewAudit(d.store.client, 0),
		keys.Actor{Name: "tollgate demo", Operator: true}, time.Now)
	_, err = manager.Seed(ctx, d.entries, keys.SeedSource{Source: "the demo"})
	return err
}

// serve starts the authorization server.
func (d *demo) serve(address string) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	registry, metrics := newMetrics()
	policies := extauthz.FixedPolicies(d.policies, metrics)
	log := slog.New(slog.NewTextHandler(d.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cache := newKeyCache(d.store.client, keys.CacheOptions{}, false, policies, registry, metrics, log)
	ctx, endCache := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { cache.run(ctx) })
	d.closers = append(d.closers, func() error {
		endCache()
		work.Wait()
		return nil
	})
	leases := limits.NewLeases(limits.NewStore(d.store.client, nil), limits.Options{})
	work.Go(func() { leases.Run(ctx) })
	server := extauthz.New(extauthz.Config{
		Policies:  policies,
		Decider:   policy.NewDecider(d.hasher, limits.NewLocal(1, time.Now, maxLocalKeys), time.Now),
		Keys:      cache.cache,
		Breaker:   cache.breaker,
		Limits:    leases,
		Metrics:   metrics,
		Log:       log,
		Decisions: extauthz.LogNone,
	})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	d.closers = append(d.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), demoStop)
		defer cancel()
		server.Shutdown(ctx)
		return <-ended
	})
	return nil
}

func (d *demo) startEnvoy(ctx context.Context, binary, tollgate, upstream string) error {
	bootstrap, err := envoy.Bootstrap("all")
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
