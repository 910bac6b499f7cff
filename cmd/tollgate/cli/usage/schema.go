package usage

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/usage/clickhouse"
)

// schemaCommand returns the command that prints what the history needs before there can be any.
func schemaCommand() *cobra.Command {
	var ofClickHouse, logs bool
	cmd := &cobra.Command{
		Use:   "schema --clickhouse [--system-logs]",
		Short: "Print the tables that --usage-clickhouse needs",
		Long: `Print the tables that --usage-clickhouse needs, as statements for clickhouse-client. They
keep hours for 90 days and days for 400; change TTL if you want. In a comment, or alone
with --system-logs, is a file for ClickHouse's config.d that keeps what it writes about
itself small, which by default grows without end. Nothing is created by itself.`,
		Args: FlagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !ofClickHouse {
				return errors.New("usage schema: want --clickhouse")
			}
			text := clickhouse.Schema()
			if logs {
				text = clickhouse.SystemLogs()
			}
			_, err := io.WriteString(cmd.OutOrStdout(), text)
			return exit.Failed(err)
		},
	}
	cmd.Flags().BoolVar(&ofClickHouse, "clickhouse", false, "for ClickHouse")
	cmd.Flags().BoolVar(&logs, "system-logs", false, "only the file of its config.d")
	return cmd
}
