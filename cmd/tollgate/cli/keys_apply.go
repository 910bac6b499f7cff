package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/transfer"
)

func emptyFile(prune bool) error {
	if prune {
		return errors.New("apply: the file names no key; with --prune it would delete all of them")
	}
	return errors.New("apply: the file names no key")
}

func newApply(a *access) *cobra.Command {
	s, path, o := &source{}, "", admin.ApplyOptions{}
	cmd := &cobra.Command{
		Use:   "apply -f FILE [--dry-run] [--prune [--all-teams]]",
		Short: "Make the keys of an API or team what a file says",
		Long: `Make the keys of an API or team what a file says: create what is missing, change what
differs and, with --prune, revoke and delete what the file does not name. Only the
teams that the file has keys of are touched, and the one that --api and --team name;
--api API --all-teams means every team of the API. Run again, it changes nothing. A
key that is revoked, deleted or corrupt in the store is left out and named; the
others are changed, and the exit code is 1.`,
		Args: noKeysFile,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return errors.New("apply: which file? give -f FILE")
			}
			if err := s.open(path); err != nil {
				return err
			}
			defer s.file.Close()
			o.Defaults = s.defaults
			if o.AllTeams && (o.API == "" || o.Team != "") {
				return errors.New("apply: --all-teams needs --api, and no --team")
			}
			if some, err := s.holdsKeys(); err != nil || !some {
				return errors.Join(err, emptyFile(o.Prune))
			}
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				diff, err := a.manager.Apply(ctx, transfer.Read(s.kind, s.file, s.options), o)
				return errors.Join(explained(err), exit.Failed(a.printDiff(cmd, diff)))
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVarP(&path, "file", "f", "", "file with the keys")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only show what would be done")
	a.confirm.add(cmd.Flags())
	cmd.Flags().BoolVar(&o.AllTeams, "all-teams", false, "the file speaks for every team of --api, also those it has no key of")
	cmd.Flags().BoolVar(&o.Prune, "prune", false, "revoke and delete keys that the file does not name")
	s.flags(cmd.Flags())
	return cmd
}

// noKeysFile is noArguments with a word about the flag.
func noKeysFile(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only; did you mean -f FILE?", cmd.CommandPath())
	}
	return nil
}

func (a *access) printDiff(cmd *cobra.Command, d *admin.Diff) error {
	if d == nil {
		return nil
	}
	if a.output != output.Table {
		return a.output.Print(cmd.OutOrStdout(), d)
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), d)
	return err
}
