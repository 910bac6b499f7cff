// Package server is `tollgate serve`: its flags, and the process that puts policies, keys, limits
// and the servers together, starts them, watches them and shuts them down. service.go reads
// top-down.
package server

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Command returns the command that runs the server.
func Command(version string) *cobra.Command {
	s := &options{}
	cmd := &cobra.Command{
		Use:   "serve --policy FILE|DIR [--keys FILE|DIR] [flags]",
		Short: "Run the authorization service",
		Long: `Run the authorization service: ext_authz v3 for Envoy on the gRPC port (with
grpc.health.v1), /livez, /readyz, /metrics and /access-logs on the HTTP port, and
with --authz-http-address the same decisions for proxies that ask over HTTP.

Each flag can also be a variable, TOLLGATE_ and its name in capitals
(TOLLGATE_GRPC_ADDRESS), or a key of the YAML file that --config names
(grpc-address: "127.0.0.1:9001"). A flag wins over a variable, a variable over
the file. A key that the file should not have is an error; a variable is not.

SIGTERM and SIGINT drain: /readyz and health say no, and after --drain-delay, in
which proxies notice and new checks are still answered, the ports close, calls
under way end, and the server stops. A second signal stops it at once.`,
		Args: noFile("policy"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.fill(cmd.Flags()); err != nil {
				return err
			}
			return serve(cmd.Context(), s, version, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(newFlags(s))
	return cmd
}

// noFile is cobra.NoArgs for a command whose file is a flag.
func noFile(flag string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q for %q, which takes flags only; did you mean --%s FILE?", args[0], cmd.CommandPath(), flag)
		}
		return nil
	}
}
