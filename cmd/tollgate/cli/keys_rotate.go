package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

func newRotate(a *access) *cobra.Command {
	grace := span(day)
	cmd := &cobra.Command{
		Use:   "rotate ID [--grace 24h]",
		Short: "Make a successor of a key and print its secret, which is shown only once",
		Long: `Make a successor of a key, with the same rights, expiry and counters, and print its
secret, which is shown only once. The key itself stops after the grace, or at its own expiry if
that is sooner.`,
		Args: ids(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				next, secret, err := a.manager.Rotate(ctx, args[0], time.Duration(grace))
				return a.showSecret(cmd, next, secret, args[0], err)
			})
		},
	}
	cmd.Flags().Var(&grace, "grace", "how long the old secret still works: 24h, 7d, 0s")
	return cmd
}
