// Package cli holds the commands that manage keys, teams and policies. Each file is named
// for the noun and the verb that it holds; access.go opens what they work with, and this
// file has what they share.
package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/alerts"
	"tollgate/cmd/tollgate/cli/ask"
	"tollgate/cmd/tollgate/cli/check"
	"tollgate/cmd/tollgate/cli/clients"
	"tollgate/cmd/tollgate/cli/doctor"
	errorlog "tollgate/cmd/tollgate/cli/errors"
	"tollgate/cmd/tollgate/cli/limits"
	"tollgate/cmd/tollgate/cli/usage"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/store"
)

// Commands returns the nouns of the CLI.
func Commands() []*cobra.Command {
	return []*cobra.Command{newKeys(), newClients(), newTeams(), newMembers(), check.Command(&access{}), usage.Command(&access{}), errorlog.Command(&access{}), alerts.Command(&access{}), newLimits(), newDoctor(), newAudit(), newStoreCommand(), newPolicy()}
}

// unknownCommand does not repeat what it does not know: that could be a secret.
// It names the commands that there are, and the one that was probably meant.
func unknownCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return fmt.Errorf("%s: want one of %s%s", cmd.CommandPath(), strings.Join(names, ", "), DidYouMean(cmd, args))
}

// DidYouMean names the commands that are spelt nearly so.
func DidYouMean(cmd *cobra.Command, args []string) string {
	if len(args) == 0 {
		return ""
	}
	cmd.SuggestionsMinimumDistance = 2
	near := cmd.SuggestionsFor(args[0])
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

func newKeys() *cobra.Command {
	a := &access{}
	cmd := group("keys", "Make, show, change and end API keys",
		`Make, show, change and end API keys, in the store that tollgate serve uses.

The first six flags can also be variables: TOLLGATE_ and the name in capitals
(TOLLGATE_STORE, TOLLGATE_POLICY). Without a member's token the operator acts.
Every change is written to the audit stream before it is made (tollgate audit).
No command takes a secret as an argument, and each prints one only when it is
made.`)
	a.flags(cmd)
	cmd.AddCommand(newCreate(a), newGet(a), newList(a), newUpdate(a), newRotate(a),
		newChange(a, change{"revoke", "End keys for good, at once and everywhere",
			"It waits for a replica of the store, if that has or has had any in the last 30 days,\nand exits with 3 if none has confirmed the change within a second: revoke again then.\nIt also waits a second for every server to hear of the change, names those that have\nnot with the time until which they may serve the key, and exits with 3 then, too.", storeOnly, (*admin.Manager).Revoke}),
		newChange(a, change{"deactivate", "Switch keys off until activate", "", storeOnly, (*admin.Manager).Deactivate}),
		newChange(a, change{"activate", "Switch keys on again", "", storeAndPolicy, (*admin.Manager).Activate}),
		newChange(a, change{"delete", "Remove revoked keys", "Only revoked keys can be deleted. Their ids are never used again.", storeOnly, (*admin.Manager).Delete}),
		newVerify(a), newImport(a), newExport(a), newApply(a), newRepair(a))
	return cmd
}

func newClients() *cobra.Command {
	return clients.Command(group("clients", "Block clients that present access tokens, and give them plans and limits",
		`Block clients that present OAuth 2.0 access tokens, and give them a plan or limits of
their own. A client is named by the API, the issuer of its tokens and the id that the
issuer has for it, or by the id of its record. Only the operator may, and every change
is written to the audit stream before it is made.`), &access{})
}

func newLimits() *cobra.Command {
	cmd := group("limits", "Show what keys have spent, have it begin anew, grant more for a time",
		`Show what keys have spent of their limits, have that begin anew, and grant more for a
time. Each needs the policy of the servers. Only the operator resets and grants, and
both are written to the audit stream before they are made.`)
	return limits.Command(cmd, &access{}, ids(1, 1))
}

func newDoctor() *cobra.Command {
	cmd := group("doctor", "Say what is wrong with servers that run, and what to change", "")
	cmd.AddCommand(doctor.AccessLog(), ask.Command())
	return cmd
}

// group is a command that only has others. It does not repeat what it does not
// know: that could be a secret.
func group(name, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_ = cmd.Help()
			}
			return unknownCommand(cmd, args)
		},
	}
}

// ids takes key ids alone. What is none is not repeated: it could be a secret.
func ids(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("%s: want the id of a key, like key_0123456789abcdef", cmd.CommandPath())
		}
		for _, id := range args {
			if !strings.HasPrefix(id, "key_") {
				return fmt.Errorf("%s: an argument is not the id of a key, which begins with key_; if it was a secret, it is in your shell's history now", cmd.CommandPath())
			}
		}
		return nil
	}
}

const manyIDs = 1000

// noArguments refuses arguments without repeating them: one could be a secret.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only", cmd.CommandPath())
	}
	return nil
}

// explained is an error of the Manager as run prints it: one clear line, and the
// exit code that belongs to it.
func explained(err error) error {
	if err == nil {
		return nil
	}
	f := &exit.Failure{Err: exit.Plain(err)}
	if errors.Is(err, admin.ErrUnconfirmed) || errors.Is(err, store.ErrUnheard) {
		f.Code = exit.CodeUnconfirmed
	}
	return f
}
