package main

import (
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// newPause returns the command of a container in which others are run: the image has no shell that
// could sleep.
func newPause() *cobra.Command {
	return &cobra.Command{
		Use:   "pause",
		Short: "Do nothing until told to end: for a container in which commands are run (kubectl exec)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if _, err := fmt.Fprintln(cmd.ErrOrStderr(), "waiting for a signal; tollgate --help says what can be run beside this"); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		},
	}
}
