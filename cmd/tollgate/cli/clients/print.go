package clients

import (
	"fmt"
	"io"
	"strings"
	"time"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

// view is a client as programs get it.
type view struct {
	ID        string          `json:"id"` // of the record, the counters and the usage
	API       string          `json:"api"`
	Issuer    string          `json:"issuer"`
	Client    string          `json:"client"`
	Status    string          `json:"status"`
	Plan      string          `json:"plan,omitempty"`
	Limits    []keyfile.Limit `json:"limits,omitempty"`
	Extras    []keyfile.Extra `json:"extras,omitempty"`
	CreatedAt time.Time       `json:"created_at,omitzero"`
	CreatedBy string          `json:"created_by,omitempty"`
	UpdatedAt time.Time       `json:"updated_at,omitzero"`
	LastUsed  time.Time       `json:"last_used,omitzero"`
	Version   int64           `json:"version"`
}

func viewOf(k *keys.Key) view {
	f := keyfile.FieldsOf(k)
	return view{
		k.ID, k.API, k.Client.Issuer, k.Client.ID, status(k), k.Plan, f.Limits, f.Extras,
		k.CreatedAt, k.CreatedBy, k.UpdatedAt, k.LastUsed, k.Version,
	}
}

// status is what the record says of the client in a word.
func status(k *keys.Key) string {
	if k.Status == keys.Inactive {
		return "blocked"
	}
	return string(k.Status)
}

func limitsText(k *keys.Key) string {
	var all []string
	for _, l := range k.Limits {
		all = append(all, fmt.Sprintf("%s=%d", l.Name, l.Requests))
	}
	return strings.Join(all, ",")
}

func extrasText(k *keys.Key, now time.Time) string {
	var all []string
	for _, x := range k.Extras {
		if now.Before(x.Until) {
			all = append(all, fmt.Sprintf("%s+%d until %s", x.Name, x.Requests, output.Time(x.Until)))
		}
	}
	return strings.Join(all, ", ")
}

// shown prints a client, a field a line for people.
func shown(w io.Writer, o output.Format, k *keys.Key) error {
	if o != output.Table {
		return o.Print(w, viewOf(k))
	}
	return output.Columns(w, output.Fields(
		"id", k.ID, "api", k.API, "issuer", output.Printable(k.Client.Issuer), "client", output.Printable(k.Client.ID), "status", status(k),
		"plan", k.Plan, "limits", limitsText(k), "granted", extrasText(k, time.Now()), "created", output.Time(k.CreatedAt),
		"created by", k.CreatedBy, "updated", output.Time(k.UpdatedAt), "last used", output.Time(k.LastUsed), "version", fmt.Sprint(k.Version)))
}

// changed prints what a change has made.
func changed(w io.Writer, o output.Format, k *keys.Key) error {
	if o != output.Table {
		return o.Print(w, viewOf(k))
	}
	_, err := fmt.Fprintf(w, "%s %s, version %d\n", k.ID, status(k), k.Version)
	return err
}

func listed(w io.Writer, o output.Format, page []*keys.Key, next string) error {
	if o != output.Table {
		all := []view{}
		for _, k := range page {
			all = append(all, viewOf(k))
		}
		return o.Print(w, struct {
			Clients []view `json:"clients"`
			Next    string `json:"next,omitempty"`
		}{all, next})
	}
	rows := [][]string{{"ID", "API", "ISSUER", "CLIENT", "STATUS", "PLAN", "LIMITS", "LAST USED"}}
	for _, k := range page {
		rows = append(rows, []string{
			k.ID, k.API, output.Printable(k.Client.Issuer), output.Printable(k.Client.ID), status(k), output.OrDash(k.Plan),
			output.OrDash(limitsText(k)), output.OrDash(output.Time(k.LastUsed)),
		})
	}
	return output.Columns(w, rows)
}
