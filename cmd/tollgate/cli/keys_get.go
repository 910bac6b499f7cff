package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	errorlog "tollgate/cmd/tollgate/cli/errors"
	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/cli/usage"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

func newGet(a *access) *cobra.Command {
	return &cobra.Command{
		Use:   "get ID",
		Short: "Show a key",
		Args:  ids(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				key, err := a.manager.Get(ctx, args[0])
				if err != nil {
					return explained(err)
				}
				used, err := usage.OfToday(ctx, a.storage.Client, key, time.Now())
				if err != nil {
					cmd.PrintErrf("what it did today is not known: %v\n", exit.Plain(err))
				}
				last, err := errorlog.LastOf(ctx, a.storage.Client, key)
				if err != nil {
					cmd.PrintErrf("how it failed last is not known: %v\n", exit.Plain(err))
				}
				return exit.Failed(a.printKey(cmd.OutOrStdout(), key, used, last))
			})
		},
	}
}

// keyView is a key as programs get it: its record without the hash.
type keyView struct {
	ID          string          `json:"id"`
	API         string          `json:"api"`
	Team        string          `json:"team,omitempty"`
	Name        string          `json:"name"`
	Note        string          `json:"note,omitempty"`
	Environment string          `json:"environment,omitempty"`
	Plan        string          `json:"plan,omitempty"`
	Scopes      []string        `json:"scopes,omitempty"`
	IPs         []string        `json:"ips,omitempty"`
	Limits      []keyfile.Limit `json:"limits,omitempty"`
	Extras      []keyfile.Extra `json:"extras,omitempty"`
	Status      string          `json:"status"`
	ExpiresAt   time.Time       `json:"expires_at,omitzero"`
	RetiresAt   time.Time       `json:"retires_at,omitzero"`
	CreatedAt   time.Time       `json:"created_at,omitzero"`
	CreatedBy   string          `json:"created_by,omitempty"`
	UpdatedAt   time.Time       `json:"updated_at,omitzero"`
	LastUsed    time.Time       `json:"last_used,omitzero"`
	RotatedFrom string          `json:"rotated_from,omitempty"`
	RotatedTo   string          `json:"rotated_to,omitempty"`
	LimitID     string          `json:"limit_id,omitempty"`
	AnchorDay   int             `json:"anchor_day,omitempty"`
	Version     int64           `json:"version"`
	UsageToday  *usage.Today    `json:"usage_today,omitempty"` // of keys get alone
	LastError   *errorlog.Last  `json:"last_error,omitempty"`  // likewise
}

func shown(k *keys.Key) keyView {
	f := keyfile.FieldsOf(k)
	return keyView{
		ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, Note: k.Note, Environment: k.Environment, Plan: k.Plan,
		Scopes: k.Scopes, IPs: f.IPs, Limits: f.Limits, Extras: f.Extras, Status: string(k.Status),
		ExpiresAt: k.ExpiresAt, RetiresAt: k.RetiresAt, CreatedAt: k.CreatedAt, CreatedBy: k.CreatedBy,
		UpdatedAt: k.UpdatedAt, LastUsed: k.LastUsed, RotatedFrom: k.RotatedFrom, RotatedTo: k.RotatedTo,
		LimitID: k.LimitID, AnchorDay: k.AnchorDay, Version: k.Version,
	}
}

// state is the status in a word, with what the clock has made of it.
func state(k *keys.Key, now time.Time) string {
	switch {
	case k.Status != keys.Active:
		return string(k.Status)
	case !k.RetiresAt.IsZero() && !now.Before(k.RetiresAt):
		return "retired"
	case k.Expired(now):
		return "expired"
	case !k.RetiresAt.IsZero():
		return "retiring"
	}
	return string(k.Status)
}

// printKey prints a key, a field a line for people, and what it did today and how it failed last if
// that is known.
func (a *access) printKey(w io.Writer, k *keys.Key, used *usage.Today, last *errorlog.Last) error {
	if a.output != output.Table {
		view := shown(k)
		view.UsageToday, view.LastError = used, last
		return a.output.Print(w, view)
	}
	today := ""
	if used != nil {
		today = used.String()
	}
	f := keyfile.FieldsOf(k)
	return output.Columns(w, output.Fields(
		"id", k.ID, "api", k.API, "team", k.Team, "name", k.Name, "note", k.Note, "environment", k.Environment,
		"plan", k.Plan, "scopes", strings.Join(k.Scopes, ","), "ips", strings.Join(f.IPs, ","), "limits", limitsText(k), "granted", extrasText(k, time.Now()),
		"status", state(k, time.Now()), "expires", output.Time(k.ExpiresAt), "retires", output.Time(k.RetiresAt),
		"created", output.Time(k.CreatedAt), "created by", k.CreatedBy, "updated", output.Time(k.UpdatedAt),
		"last used", output.Time(k.LastUsed), "used today", today, "last error", last.String(), "rotated from", k.RotatedFrom, "rotated to", k.RotatedTo,
		"version", fmt.Sprint(k.Version)))
}

func limitsText(k *keys.Key) string {
	var all []string
	for _, l := range k.Limits {
		all = append(all, fmt.Sprintf("%s=%d", l.Name, l.Requests))
	}
	return strings.Join(all, ",")
}

// extrasText names what was granted and has not ended.
func extrasText(k *keys.Key, now time.Time) string {
	var all []string
	for _, x := range k.Extras {
		if now.Before(x.Until) {
			all = append(all, fmt.Sprintf("%s+%d until %s", x.Name, x.Requests, output.Time(x.Until)))
		}
	}
	return strings.Join(all, ", ")
}

// showChanged prints a key that was changed, also beside an error.
func (a *access) showChanged(cmd *cobra.Command, k *keys.Key, err error) error {
	if k == nil {
		return explained(err)
	}
	out := cmd.OutOrStdout()
	var printed error
	if a.output != output.Table {
		printed = a.output.Print(out, shown(k))
	} else {
		_, printed = fmt.Fprintf(out, "%s %s, version %d\n", k.ID, state(k, time.Now()), k.Version)
	}
	return errors.Join(explained(err), exit.Failed(printed))
}
