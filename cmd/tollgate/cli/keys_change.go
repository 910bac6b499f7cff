package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
)

// change is a command that does one thing to each key it is given.
type change struct {
	name, short, long string
	needs             needs
	do                func(*admin.Manager, context.Context, string) (*keys.Key, error)
}

func newChange(a *access, c change) *cobra.Command {
	cmd := &cobra.Command{
		Use:   c.name + " ID...",
		Short: c.short,
		Long:  strings.TrimSpace(c.short + ".\n" + c.long),
		Args:  ids(1, manyIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, c.needs, func(ctx context.Context) error {
				var errs []error
				for _, id := range args {
					key, err := c.do(a.manager, ctx, id)
					if c.name == "delete" && key != nil {
						key.Status = keys.Deleted
					}
					if err = a.showChanged(cmd, key, err); err != nil {
						errs = append(errs, withID(id, len(args), err))
					}
				}
				return errors.Join(errs...)
			})
		},
	}
	if c.name == "revoke" {
		a.confirm.add(cmd.Flags())
	}
	return cmd
}

// withID says which of many keys an error is about.
func withID(id string, many int, err error) error {
	if many == 1 {
		return err
	}
	return fmt.Errorf("%s: %w", id, err)
}

const (
	confirmFlag = "confirm-replicas"
	// confirmTime is how long a revocation waits for replicas.
	confirmTime = time.Second
	anyReplica  = "auto"
)

// replicaCount is how many replicas must confirm a revocation.
type replicaCount struct {
	n     int
	given bool
}

func (c *replicaCount) add(f *pflag.FlagSet) {
	f.Var(c, confirmFlag, "how many replicas of the store must confirm a revocation; auto = one, if the store has or has had any; 0 = none. Or TOLLGATE_CONFIRM_REPLICAS")
}

// String implements pflag.Value.
func (c *replicaCount) String() string {
	if !c.given || c.n == admin.AnyReplica {
		return anyReplica
	}
	return strconv.Itoa(c.n)
}

// Type implements pflag.Value.
func (c *replicaCount) Type() string { return "number" }

// Set implements pflag.Value.
func (c *replicaCount) Set(text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case text == anyReplica:
		n = admin.AnyReplica
	case err != nil || n < 0 || n > 1000:
		return fmt.Errorf("%q is not auto or a number from 0", text)
	}
	*c = replicaCount{n: n, given: true}
	return nil
}
