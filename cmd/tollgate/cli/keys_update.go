package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
)

func newUpdate(a *access) *cobra.Command {
	k := &keyFlags{}
	cmd := &cobra.Command{
		Use:   "update ID [flags]",
		Short: "Change fields of a key; what no flag names stays",
		Args:  ids(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			patch, err := k.patch(cmd.Flags(), time.Now())
			if err != nil {
				return err
			}
			return a.run(cmd, storeAndPolicy, func(ctx context.Context) error {
				if patch.ExpiresAt != nil {
					k.sayExpiry(cmd, *patch.ExpiresAt)
				}
				key, err := a.manager.Update(ctx, args[0], patch)
				return a.showChanged(cmd, key, err)
			})
		},
	}
	cmd.Flags().SortFlags = false
	k.common(cmd.Flags())
	cmd.Flags().Int64Var(&k.version, "if-version", 0, "change nothing unless this is the key's version; 0 = any")
	return cmd
}

// patch is what update is asked for: the flags that are given, and nothing else.
func (k *keyFlags) patch(f *pflag.FlagSet, now time.Time) (admin.Patch, error) {
	p := admin.Patch{Force: k.force, Version: k.version}
	p.Name, p.Note, p.Plan = ifGiven(f, "name", k.name), ifGiven(f, "note", k.note), ifGiven(f, "plan", k.plan)
	if err := k.noEmptyLists(f); err != nil {
		return admin.Patch{}, err
	}
	p.Scopes = ifGiven(f, "scopes", k.scopes)
	ips, err := parseIPs(k.ips)
	if err != nil {
		return admin.Patch{}, err
	}
	changes, none, err := parseLimits(k.limits)
	if err != nil {
		return admin.Patch{}, err
	}
	p.IPs, p.Overrides = ifGiven(f, "ips", ips), changes
	if none {
		p.Limits = &[]keys.Override{}
	}
	at, given, err := k.expiry(f, now)
	if err != nil {
		return admin.Patch{}, err
	}
	if given {
		p.ExpiresAt = &at
	}
	if p.Name == nil && p.Note == nil && p.Plan == nil && p.Scopes == nil && p.IPs == nil && !f.Changed("limit") && p.ExpiresAt == nil {
		return admin.Patch{}, fmt.Errorf("nothing to update: give one of --name, --note, --plan, --scopes, --ips, --limit, --expires-at, --expires-in")
	}
	return p, nil
}

func ifGiven[T any](f *pflag.FlagSet, name string, value T) *T {
	if !f.Changed(name) {
		return nil
	}
	return &value
}
