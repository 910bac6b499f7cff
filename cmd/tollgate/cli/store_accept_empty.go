package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/standing"
)

func newAcceptEmpty() *cobra.Command {
	a := &access{}
	cmd := &cobra.Command{
		Use:   "accept-empty",
		Short: "Say that the store is meant to be as empty as it is",
		Long: `Say that the store is meant to be as empty as it is. Servers that know it from before
it was emptied answer no request with a key that they do not find, until its data is
back or this is said; from then on such a key is unknown. On a new store it says what
the first server would: that keys are hashed with this pepper, which commands need to
know. A store that has keys with another pepper is left as it is.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				if !a.who.Operator {
					return fmt.Errorf("store accept-empty is for the operator, not for a member with a token")
				}
				if err := standing.AcceptEmpty(ctx, a.storage.Client, a.hasher); err != nil {
					return explained(err)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "accepted: servers take the store as it is, within about a second")
				return exit.Failed(err)
			})
		},
	}
	a.flags(cmd)
	return cmd
}
