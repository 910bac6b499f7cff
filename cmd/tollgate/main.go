// Command tollgate is an external authorization service for Envoy (ext_authz v3):
// it decides whether a request carries a valid API key, what the key may do, and
// whether its limits are spent.
//
//	tollgate serve --policy DIR --keys FILE    the service
//	tollgate manage --policy DIR               the management API
//	tollgate keys create|rotate|revoke|…       the life of a key
//	tollgate teams, members, audit             who may do that, and who did
//	tollgate check --api NAME --path PATH      what would be decided, and why
//	tollgate policy check FILE...              policy files, checked without a server
//
// It exits with 0, with 1 if something failed, with 2 if it was called or
// configured wrongly, and with 3 if a key is revoked but a server, or a replica of
// the store, has not confirmed it. --help describes every flag.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli"
	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/manage"
	"tollgate/cmd/tollgate/server"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main as a function: it prints every error once and returns the exit
// code. The end of ctx does what SIGINT does.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return exit.Report(root.ExecuteContext(ctx), stderr)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "tollgate",
		Short:         "API keys and rate limits for Envoy (ext_authz v3)",
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), cli.DidYouMean(cmd, args))
			}
			_ = cmd.Help()
			return errors.New("a command is missing")
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nrun %q to see the flags", err, cmd.CommandPath()+" --help")
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.Version = version()
	root.AddCommand(server.Command(version()), manage.Command(), newPause(), newVersion())
	root.AddCommand(cli.Commands()...)
	return root
}
