// Package doctor is `tollgate doctor`: what is wrong with an installation that runs, and what to
// change.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
)

// maxWatch bounds --watch.
const maxWatch = 10 * time.Minute

// AccessLog returns the command that looks at access logs.
func AccessLog() *cobra.Command {
	o := &options{format: output.Table}
	cmd := &cobra.Command{
		Use:   "access-log --server URL [flags]",
		Short: "Say whether Envoy's access log arrives, and what to change if it does not",
		Long: `Say whether Envoy's access log arrives at tollgate serve: from which Envoy, when the
last entry came and how late, whether entries have the metadata of our decisions, and
where requests under way are limited whether Envoy tells of long ones often enough.
Beside each problem stands what to change in Envoy, with Istio and with Envoy Gateway.

It asks the --http-address of the servers, twice. An Envoy sends its log to any of
them, so name all replicas. The exit code is 1 if something is wrong.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s: takes flags only", cmd.CommandPath()) // not repeated: one could be a secret
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringSliceVar(&o.servers, "server", nil, "URL of a server's --http-address, such as http://127.0.0.1:9002; repeat it, or join several with commas")
	f.DurationVar(&o.watch, "watch", 3*time.Second, "time between the two looks, 0 for a single one")
	f.VarP(&o.format, "output", "o", "table, json or yaml")
	return cmd
}

type options struct {
	servers []string
	watch   time.Duration
	format  output.Format
}

func (o *options) check() error {
	if len(o.servers) == 0 {
		return errors.New("--server is missing: the URL of a server's --http-address, such as http://127.0.0.1:9002")
	}
	for i, server := range o.servers {
		if _, err := reportURL(server); err != nil {
			return fmt.Errorf("--server %d: %w", i+1, err)
		}
	}
	if o.watch < 0 || o.watch > maxWatch {
		return fmt.Errorf("--watch: %v is not 0s to %v", o.watch, maxWatch)
	}
	return nil
}

func (o *options) run(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	looks, err := look(ctx, o.servers, o.watch)
	if err != nil {
		return exit.Failed(err)
	}
	found := judge(looks, o.watch)
	if err := found.print(cmd.OutOrStdout(), o.format); err != nil {
		return exit.Failed(err)
	}
	if len(found.Problems) > 0 {
		return &exit.Failure{} // it is said already
	}
	return nil
}

// look asks each server twice, or once where there is no time between.
func look(ctx context.Context, servers []string, watch time.Duration) ([]*looks, error) {
	all := make([]*looks, len(servers))
	for i, server := range servers {
		all[i] = &looks{server: server}
	}
	var c client
	ask := func(each func(l *looks)) {
		var asked sync.WaitGroup
		for _, l := range all {
			asked.Go(func() { each(l) })
		}
		asked.Wait()
	}
	ask(func(l *looks) { l.before, l.err = c.report(ctx, l.server) })
	if watch > 0 {
		select {
		case <-time.After(watch):
		case <-ctx.Done():
			return nil, errors.New("interrupted")
		}
		ask(func(l *looks) {
			if l.err == nil {
				l.after, l.err = c.report(ctx, l.server)
			}
		})
	} else {
		for _, l := range all {
			l.after = l.before
		}
	}
	return all, nil
}

// print prints what was found.
func (f *findings) print(w io.Writer, format output.Format) error {
	if format != output.Table {
		return format.Print(w, f)
	}
	return f.table(w)
}
