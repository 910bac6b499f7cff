package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
)

func newRepair(a *access) *cobra.Command {
	api := ""
	cmd := &cobra.Command{
		Use:   "repair [--api API]",
		Short: "Find and put right what interrupted changes have left in the store",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				report, err := a.manager.Repair(ctx, api)
				if errors.Is(err, roles.ErrForbidden) || errors.Is(err, audit.ErrNotAudited) {
					return explained(err) // nothing was looked at
				}
				return errors.Join(explained(err), exit.Failed(a.output.Print(cmd.OutOrStdout(), report)))
			})
		},
	}
	cmd.Flags().StringVar(&api, "api", "", "only keys of this API")
	return cmd
}
