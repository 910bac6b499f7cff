package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
)

// maxPasted is the longest secret that verify reads, with what stands around it.
const maxPasted = 4096

func newVerify(a *access) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Say which key a secret belongs to; it is read from standard input",
		Long: `Say which key a secret belongs to and in what state that is. The secret is read
from standard input, or from a prompt that does not show it; spaces and quotes
around it do not count. Exits with 0 if the key is active, else with 1.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New("verify reads the secret from standard input: command lines can be seen by others, and are kept in the shell's history")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, storeOnly|thePepper, func(ctx context.Context) error {
				secret, err := readSecret(cmd.InOrStdin(), cmd.ErrOrStderr())
				if err != nil {
					return exit.Failed(err)
				}
				key, status, err := a.manager.Verify(ctx, secret)
				if err != nil {
					return explained(err)
				}
				if err := a.printVerdict(cmd.OutOrStdout(), key, status); err != nil {
					return exit.Failed(err)
				}
				if status != admin.VerifyActive {
					return &exit.Failure{}
				}
				return nil
			})
		},
	}
}

// readSecret reads a secret without showing it.
func readSecret(in io.Reader, prompt io.Writer) (string, error) {
	if file, ok := in.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		if _, err := fmt.Fprint(prompt, "Secret (not shown): "); err != nil {
			return "", err
		}
		data, err := term.ReadPassword(int(file.Fd()))
		_, _ = fmt.Fprintln(prompt)
		return string(data), err
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPasted+1))
	if err == nil && len(data) > maxPasted {
		err = fmt.Errorf("standard input holds more than %d bytes, which is no secret", maxPasted)
	}
	return string(data), err
}

// verification is what verify prints.
type verification struct {
	ID     string             `json:"id,omitempty"`
	Status admin.VerifyStatus `json:"status"`
	API    string             `json:"api,omitempty"`
	Team   string             `json:"team,omitempty"`
	Name   string             `json:"name,omitempty"`
}

func (a *access) printVerdict(w io.Writer, k *keys.Key, status admin.VerifyStatus) error {
	v := verification{Status: status}
	if k != nil {
		v.ID, v.API, v.Team, v.Name = k.ID, k.API, k.Team, k.Name
	}
	if a.output != output.Table {
		return a.output.Print(w, v)
	}
	return output.Columns(w, output.Fields("id", v.ID, "status", string(status), "api", v.API, "team", v.Team, "name", v.Name))
}
