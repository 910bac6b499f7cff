package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/cli/render"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/strictyaml"
	"tollgate/policy/policyfile"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Work with policy files, without a server",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), DidYouMean(cmd, args))
			}
			_ = cmd.Help()
			return errors.New("policy: a command is missing: check, test, render or schema")
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE|DIR...",
		Short: "Check policy files, also against each other",
		Long: `Check policy files as the server would load them together. A good file is a line
"ok FILE: …" on standard output; each fault is a line "file:line:col: message" on
standard error, and the exit code is 1.`,
		Args: cobra.MinimumNArgs(1),
		RunE: checkPolicies,
	})
	cmd.AddCommand(newPolicyTest())
	cmd.AddCommand(render.Command())
	cmd.AddCommand(&cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a policy file, for editors",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			schema, err := policyfile.Schema()
			if err != nil {
				return exit.Failed(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", schema)
			return exit.Failed(err)
		},
	})
	return cmd
}

func checkPolicies(cmd *cobra.Command, args []string) error {
	files, err := readPolicies(args)
	if err != nil {
		return err
	}
	_, err = policyfile.Compile(files...)
	faults := faultsOf(err)
	bad := map[string]bool{}
	for _, f := range faults {
		var fault *policyfile.Fault
		if errors.As(f, &fault) {
			bad[fault.File] = true
		}
		cmd.PrintErrln(f)
	}
	for _, f := range files {
		if bad[f.Name] {
			continue
		}
		summary, err := summarize(f)
		if err != nil {
			return exit.Failed(err)
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "ok %s: %s\n", f.Name, summary); err != nil {
			return exit.Failed(err)
		}
	}
	if len(faults) > 0 {
		return &exit.Failure{}
	}
	return nil
}

// readPolicies reads all files of the arguments, each once.
func readPolicies(args []string) ([]policyfile.File, error) {
	var all []policyfile.File
	seen := map[string]bool{}
	for _, arg := range args {
		files, err := policyfile.ReadFiles(arg)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if path := filepath.Clean(f.Name); !seen[path] {
				seen[path] = true
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// faultsOf takes a joined error apart.
func faultsOf(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// summarize says in a line what a good policy file holds.
func summarize(f policyfile.File) (string, error) {
	doc, fault := strictyaml.Read(string(f.Data))
	if fault != nil {
		return "", fmt.Errorf("%s: %w", f.Name, fault)
	}
	return fmt.Sprintf("api %s, %s, %s", doc.Field("api"), output.Count(len(doc.Field("routes").Items()), "route"),
		output.Count(len(doc.Field("plans").Items()), "plan")), nil
}
