package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/standing"
)

func newExport(a *access) *cobra.Command {
	l, form := &filterFlags{}, ""
	cmd := &cobra.Command{
		Use:   "export [flags]",
		Short: "Print keys with their hashes, as import and apply read them",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := l.filter(time.Now())
			if err != nil {
				return err
			}
			if form != string(admin.ExportYAML) && form != string(admin.ExportJSONLines) {
				return fmt.Errorf("--format: %q is not yaml or jsonl", form)
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				n, err := a.manager.Export(ctx, cmd.OutOrStdout(), admin.ExportFormat(form), filter)
				if err == nil && n == 0 {
					// A backup of nothing must not take the place of one that has the keys.
					err = standing.CheckClaimed(ctx, a.storage.Client)
				}
				if err == nil {
					return a.knownNames(filter, n)
				}
				return explained(err)
			})
		},
	}
	cmd.Flags().SortFlags = false
	l.add(cmd.Flags())
	cmd.Flags().StringVar(&form, "format", string(admin.ExportYAML), "yaml or jsonl")
	return cmd
}
