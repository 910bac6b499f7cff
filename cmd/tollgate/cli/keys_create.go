package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/cmd/tollgate/cli/limits"
	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
)

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

func newCreate(a *access) *cobra.Command {
	k := &keyFlags{}
	cmd := &cobra.Command{
		Use:   "create --api API --name NAME [flags]",
		Short: "Make a key and print its secret, which is shown only once",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := k.key(cmd.Flags(), time.Now())
			if err != nil {
				return err
			}
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				if err := a.choose(&key); err != nil {
					return err
				}
				k.sayExpiry(cmd, key.ExpiresAt)
				made, secret, err := a.manager.Create(ctx, key, k.force)
				return a.showSecret(cmd, made, secret, "", err)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&k.api, "api", "", "API of the policy; default: that of the member who acts")
	f.StringVar(&k.team, "team", "", "owner of the key; default: the team of the member who acts")
	f.StringVar(&k.environment, "env", "", "environment, where the API has some")
	k.common(f)
	f.BoolVar(&k.inactive, "inactive", false, "make it switched off")
	return cmd
}

// keyFlags are the fields of a key as flags of create and update.
type keyFlags struct {
	api, team, environment string
	name, note, plan       string
	scopes, ips, limits    []string
	expiresAt              string
	expiresIn              span
	inactive, force        bool
	version                int64
}

// never is the value of --expires-at that takes an expiry away.
const never = "never"

// common adds the flags that create and update share.
func (k *keyFlags) common(f *pflag.FlagSet) {
	f.StringVar(&k.name, "name", "", "name, for people")
	f.StringVar(&k.note, "note", "", "free text")
	f.StringVar(&k.plan, "plan", "", "plan of the API's policy")
	f.StringSliceVar(&k.scopes, "scopes", nil, "scopes, joined with commas; none for no list")
	f.StringSliceVar(&k.ips, "ips", nil, "addresses and CIDRs that the key may be used from, joined with commas; none for every address")
	f.StringArrayVar(&k.limits, "limit", nil, "NAME=REQUESTS: another size for one limit of the plan; repeat for more. With update, limits that are not named stay, NAME=none takes one away, and none alone all of them")
	f.StringVar(&k.expiresAt, "expires-at", "", "when the key stops: 2026-12-31T23:59:59Z, 2026-12-31 for the end of that day in UTC, or never")
	f.Var(&k.expiresIn, "expires-in", "after how long the key stops: 90d, 12h")
	f.BoolVar(&k.force, "force", false, "take an expiry in the past")
}

// expiry returns the time that the flags name; given says whether they do. Never
// is the zero time.
func (k *keyFlags) expiry(f *pflag.FlagSet, now time.Time) (at time.Time, given bool, err error) {
	byTime, bySpan := f.Changed("expires-at"), f.Changed("expires-in")
	switch {
	case byTime && bySpan:
		return time.Time{}, false, fmt.Errorf("--expires-at and --expires-in: give one of the two")
	case bySpan:
		return now.Add(time.Duration(k.expiresIn)).UTC().Truncate(time.Second), true, nil
	case !byTime:
		return time.Time{}, false, nil
	case k.expiresAt == never:
		return time.Time{}, true, nil
	}
	if at, err = limits.ParseEnd(k.expiresAt); err != nil {
		return time.Time{}, false, fmt.Errorf("--expires-at: %q is not a time like 2026-12-31T23:59:59Z, not a day like 2026-12-31, and not %s", k.expiresAt, never)
	}
	return at, true, nil
}

// sayExpiry says how a day was taken.
func (k *keyFlags) sayExpiry(cmd *cobra.Command, at time.Time) {
	if len(k.expiresAt) == len(time.DateOnly) {
		cmd.PrintErrf("--expires-at: taken as %s, the end of that day in UTC\n", at.Format(time.RFC3339))
	}
}

// key is the key that create is asked for.
func (k *keyFlags) key(f *pflag.FlagSet, now time.Time) (keys.Key, error) {
	at, _, err := k.expiry(f, now)
	if err != nil {
		return keys.Key{}, err
	}
	if err := k.noEmptyLists(f); err != nil {
		return keys.Key{}, err
	}
	ips, err := parseIPs(k.ips)
	if err != nil {
		return keys.Key{}, err
	}
	changes, _, err := parseLimits(k.limits)
	if err != nil {
		return keys.Key{}, err
	}
	var limits []keys.Override
	for _, c := range changes {
		if c.Remove {
			return keys.Key{}, fmt.Errorf("--limit: %s=none: a new key has nothing to take away", c.Name)
		}
		limits = append(limits, c.Override)
	}
	key := keys.Key{
		API: k.api, Team: k.team, Environment: k.environment, Name: k.name, Note: k.note, Plan: k.plan,
		Scopes: k.scopes, IPs: ips, Limits: limits, ExpiresAt: at, Status: keys.Active,
	}
	if k.inactive {
		key.Status = keys.Inactive
	}
	return key, nil
}

// noEmptyLists keeps an empty variable in a shell from lifting a restriction: a list
// is taken away by the word none.
func (k *keyFlags) noEmptyLists(f *pflag.FlagSet) error {
	for name, list := range map[string]*[]string{"scopes": &k.scopes, "ips": &k.ips} {
		switch {
		case !f.Changed(name):
		case len(*list) == 1 && (*list)[0] == "none":
			*list = nil
		case len(*list) == 0 || slices.Contains(*list, ""):
			return fmt.Errorf("--%s is empty; give none for no list", name)
		}
	}
	return nil
}

// parseIPs reads addresses and CIDRs; an empty text is none.
func parseIPs(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if a, addrErr := netip.ParseAddr(text); addrErr == nil && a.Zone() == "" {
			a = a.Unmap()
			prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("--ips: %q is not an IP address or CIDR", text)
		}
		all = append(all, prefix)
	}
	return all, nil
}

// parseLimits reads NAME=REQUESTS and NAME=none, each name once; the word none
// alone is for all limits.
func parseLimits(texts []string) (all []admin.LimitChange, none bool, err error) {
	for _, text := range texts {
		name, number, ok := strings.Cut(text, "=")
		requests, err := strconv.ParseInt(number, 10, 64)
		same := func(c admin.LimitChange) bool { return c.Name == name }
		switch {
		case text == "":
			return nil, false, fmt.Errorf("--limit is empty; give NAME=none to take one away, or none for all")
		case text == "none" && len(texts) == 1:
			return nil, true, nil
		case text == "none":
			return nil, false, fmt.Errorf("--limit: none takes all away; give it alone")
		case slices.ContainsFunc(all, same):
			return nil, false, fmt.Errorf("--limit: %q is given twice", name)
		case ok && name != "" && number == "none":
			all = append(all, admin.LimitChange{Override: keys.Override{Name: name}, Remove: true})
		case !ok || name == "" || err != nil:
			return nil, false, fmt.Errorf("--limit: %q is not NAME=REQUESTS, such as minute=120", text)
		default:
			all = append(all, admin.LimitChange{Override: keys.Override{Name: name, Requests: requests}})
		}
	}
	return all, false, nil
}

// moment reads a time, a day (UTC) or a span before now; empty is the zero time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), nil
		}
	}
	d, err := parseSpan(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("--%s: %q is not a span like 90d, a day like 2026-01-31 or a time like 2026-01-31T12:00:00Z", flag, text)
	}
	return now.Add(-d), nil
}

// span is a duration that can also be in days.
type span time.Duration

// String implements pflag.Value.
func (s *span) String() string { return time.Duration(*s).String() }

// Type implements pflag.Value.
func (s *span) Type() string { return "duration" }

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	d, err := parseSpan(text)
	*s = span(d)
	return err
}

const day = 24 * time.Hour

func parseSpan(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if err != nil || time.Duration(n) > 200*365 || time.Duration(n) < -200*365 {
			return 0, fmt.Errorf("%q is not a number of days such as 90d", text)
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a span such as 90d or 12h", text)
	}
	return d, nil
}

// newSecret is what create and rotate print: nothing else is ever told of a
// secret.
type newSecret struct {
	ID          string    `json:"id"`
	Secret      string    `json:"secret"`
	RotatedFrom string    `json:"rotated_from,omitempty"`
	RetiresAt   time.Time `json:"retires_at,omitzero"` // of the old key
}

// showSecret prints a key that was made. Beside an error it is printed all the
// same, because nobody else knows its secret.
func (a *access) showSecret(cmd *cobra.Command, k *keys.Key, secret, old string, err error) error {
	if k == nil {
		return explained(err)
	}
	made := newSecret{ID: k.ID, Secret: secret, RotatedFrom: old}
	if old != "" {
		if before, err := a.manager.Get(cmd.Context(), old); err == nil {
			made.RetiresAt = before.RetiresAt
		}
	}
	printed := a.printSecret(cmd.OutOrStdout(), made)
	if printed != nil {
		printed = fmt.Errorf("%s is made, but its secret could not be printed and is lost; revoke it: %w", k.ID, printed)
	}
	return errors.Join(explained(err), exit.Failed(printed))
}

func (a *access) printSecret(w io.Writer, made newSecret) error {
	if a.output != output.Table {
		return a.output.Print(w, made)
	}
	if err := output.Columns(w, output.Fields("id", made.ID, "secret", made.Secret,
		"replaces", made.RotatedFrom, "which works until", output.Time(made.RetiresAt))); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "The secret is shown once: it is stored nowhere.")
	return err
}
