package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

// commands returns the nouns of the CLI.
func commands() []*cobra.Command {
	return []*cobra.Command{newKeys(), newTeams(), newMembers(), newAudit(), newStoreCommand(), newPolicy()}
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
	return fmt.Errorf("%s: want one of %s%s", cmd.CommandPath(), strings.Join(names, ", "), meant(cmd, args))
}

// meant names the commands that are spelt nearly so.
func meant(cmd *cobra.Command, args []string) string {
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

// noFile is cobra.NoArgs for a command whose file is a flag.
func noFile(flag string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q for %q, which takes flags only; did you mean --%s FILE?", args[0], cmd.CommandPath(), flag)
		}
		return nil
	}
}

// knownNames refuses names of which nothing was found and that the policy, if one
// is given, does not have. A broken policy is in the way of nothing.
func (a *access) knownNames(filter keys.Filter, found int) error {
	if found > 0 || a.policy == "" {
		return nil
	}
	files, err := policyfile.ReadFiles(a.policy)
	if err != nil {
		return nil
	}
	set, err := policyfile.Compile(files...)
	if err != nil {
		return nil
	}
	return set.KnowsNames(filter.API, filter.Plan, filter.Environment)
}

// choose refuses a new key that leaves out what the policy has a choice of.
func (a *access) choose(k *keys.Key) error {
	api := k.API
	if api == "" {
		api = a.who.API
	}
	plans, environments := a.rules.Choices(api)
	var missing []error
	if k.Plan == "" && len(plans) > 0 {
		missing = append(missing, fmt.Errorf("--plan is missing: api %q has %s", api, strings.Join(plans, ", ")))
	}
	if k.Environment == "" && len(environments) > 0 {
		missing = append(missing, fmt.Errorf("--env is missing: api %q has %s", api, strings.Join(environments, ", ")))
	}
	return errors.Join(missing...)
}
