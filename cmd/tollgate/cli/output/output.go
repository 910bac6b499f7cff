package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"tollgate/policy/keys"
)

// format is a value of --output.
type format string

const (
	outputTable format = "table"
	outputJSON  format = "json"
	outputYAML  format = "yaml"
)

// String implements pflag.Value.
func (o *format) String() string { return string(*o) }

// Type implements pflag.Value.
func (o *format) Type() string { return "format" }

// Set implements pflag.Value.
func (o *format) Set(text string) error {
	switch format(text) {
	case outputTable, outputJSON, outputYAML:
		*o = format(text)
		return nil
	}
	return fmt.Errorf("%q is not table, json or yaml", text)
}

// encode returns v in the two formats for programs. What v holds is said once, by
// its json tags.
func (o format) encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	if o == outputYAML {
		return yaml.JSONToYAML(b.Bytes())
	}
	return b.Bytes(), nil
}

// keyView is a key as programs get it: its record without the hash.
type keyView struct {
	ID          string       `json:"id"`
	API         string       `json:"api"`
	Team        string       `json:"team,omitempty"`
	Name        string       `json:"name"`
	Note        string       `json:"note,omitempty"`
	Environment string       `json:"environment,omitempty"`
	Plan        string       `json:"plan,omitempty"`
	Scopes      []string     `json:"scopes,omitempty"`
	IPs         []string     `json:"ips,omitempty"`
	Limits      []keys.Limit `json:"limits,omitempty"`
	Status      string       `json:"status"`
	ExpiresAt   time.Time    `json:"expires_at,omitzero"`
	RetiresAt   time.Time    `json:"retires_at,omitzero"`
	CreatedAt   time.Time    `json:"created_at,omitzero"`
	CreatedBy   string       `json:"created_by,omitempty"`
	UpdatedAt   time.Time    `json:"updated_at,omitzero"`
	LastUsed    time.Time    `json:"last_used,omitzero"`
	RotatedFrom string       `json:"rotated_from,omitempty"`
	RotatedTo   string       `json:"rotated_to,omitempty"`
	LimitID     string       `json:"limit_id,omitempty"`
	AnchorDay   int          `json:"anchor_day,omitempty"`
	Version     int64        `json:"version"`
}

func shown(k *keys.Key) keyView {
	f := keys.FieldsOf(k)
	return keyView{
		ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, Note: k.Note, Environment: k.Environment, Plan: k.Plan,
		Scopes: k.Scopes, IPs: f.IPs, Limits: f.Limits, Status: string(k.Status),
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

// printKey prints a key, a field a line for people.
func (a *access) printKey(w io.Writer, k *keys.Key) error {
	if a.output != outputTable {
		return a.output.printRecord(w, shown(k))
	}
	f := keys.FieldsOf(k)
	return columns(w, fields(
		"id", k.ID, "api", k.API, "team", k.Team, "name", k.Name, "note", k.Note, "environment", k.Environment,
		"plan", k.Plan, "scopes", strings.Join(k.Scopes, ","), "ips", strings.Join(f.IPs, ","), "limits", limitsText(k),
		"status", state(k, time.Now()), "expires", moments(k.ExpiresAt), "retires", moments(k.RetiresAt),
		"created", moments(k.CreatedAt), "created by", k.CreatedBy, "updated", moments(k.UpdatedAt),
		"last used", moments(k.LastUsed), "rotated from", k.RotatedFrom, "rotated to", k.RotatedTo,
		"version", fmt.Sprint(k.Version)))
}

// fields makes rows of names and values, without those that are empty.
func fields(pairs ...string) (rows [][]string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			rows = append(rows, pairs[i:i+2])
		}
	}
	return rows
}

// printRecord prints v for programs; people get the YAML.
func (o format) printRecord(w io.Writer, v any) error {
	if o == outputTable {
		o = outputYAML
	}
	data, err := o.encode(v)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// columns prints rows under each other.
func columns(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

func moments(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func limitsText(k *keys.Key) string {
	var all []string
	for _, l := range k.Limits {
		all = append(all, fmt.Sprintf("%s=%d", l.Name, l.Requests))
	}
	return strings.Join(all, ",")
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
	return errors.Join(explained(err), failed(printed))
}

func (a *access) printSecret(w io.Writer, made newSecret) error {
	if a.output != outputTable {
		return a.output.printRecord(w, made)
	}
	if err := columns(w, fields("id", made.ID, "secret", made.Secret,
		"replaces", made.RotatedFrom, "which works until", moments(made.RetiresAt))); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "The secret is shown once: it is stored nowhere.")
	return err
}

// showChanged prints a key that was changed, also beside an error.
func (a *access) showChanged(cmd *cobra.Command, k *keys.Key, err error) error {
	if k == nil {
		return explained(err)
	}
	out := cmd.OutOrStdout()
	var printed error
	if a.output != outputTable {
		printed = a.output.printRecord(out, shown(k))
	} else {
		_, printed = fmt.Fprintf(out, "%s %s, version %d\n", k.ID, state(k, time.Now()), k.Version)
	}
	return errors.Join(explained(err), failed(printed))
}

// listing is what list prints.
type listing struct {
	filter filterFlags
	limit  int
	cursor string
	wide   bool

	printed int
}

// print prints pages until there are enough keys, so that any number of keys
// takes the memory of a page.
func (l *listing) print(ctx context.Context, cmd *cobra.Command, a *access, filter keys.Filter) error {
	out := cmd.OutOrStdout()
	cursor := l.cursor
	for {
		n := keys.MaxPage
		if l.limit > 0 {
			n = min(n, l.limit-l.printed)
		}
		page, next, err := a.manager.List(ctx, filter, cursor, n)
		var broken *keys.CorruptError
		if err != nil && !errors.As(err, &broken) {
			return explained(err)
		}
		if err != nil { // of single records; the others are what was asked for
			cmd.PrintErrln(plain(err))
		}
		if err := l.page(out, a.output, page); err != nil {
			return failed(err)
		}
		l.printed += len(page)
		if cursor = next; cursor == "" || l.limit > 0 && l.printed >= l.limit {
			break
		}
	}
	if err := a.knownNames(filter, l.printed); err != nil {
		return err
	}
	return failed(l.end(out, cmd.ErrOrStderr(), a.output, cursor))
}

func (l *listing) page(w io.Writer, o format, page []*keys.Key) error {
	if o == outputTable {
		return l.table(w, page)
	}
	for i, k := range page {
		data, err := o.encode([]keyView{shown(k)})
		if err != nil {
			return err
		}
		text, first := string(data), l.printed+i == 0
		switch {
		case o == outputYAML && first:
			text = "keys:\n" + text
		case o == outputJSON && first:
			text = `{"keys":[` + "\n" + text[1:len(text)-2]
		case o == outputJSON:
			text = ",\n" + text[1:len(text)-2]
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

func (l *listing) end(w, stderr io.Writer, o format, cursor string) error {
	quoted, err := json.Marshal(cursor)
	if err != nil {
		return err
	}
	text := ""
	switch {
	case o == outputTable && cursor != "":
		_, err := fmt.Fprintf(stderr, "there are more: --cursor %s\n", cursor)
		return err
	case o == outputTable && l.printed == 0:
		_, err := fmt.Fprintln(stderr, "no keys")
		return err
	case o == outputYAML && l.printed == 0:
		text = "keys: []\n"
	case o == outputJSON && l.printed == 0:
		text = `{"keys":[`
	case o == outputJSON:
		text = "\n"
	}
	switch {
	case o == outputYAML && cursor != "":
		text += "next: " + string(quoted) + "\n"
	case o == outputJSON && cursor != "":
		text += `],"next":` + string(quoted) + "}\n"
	case o == outputJSON:
		text += "]}\n"
	}
	_, err = io.WriteString(w, text)
	return err
}

func (l *listing) table(w io.Writer, page []*keys.Key) error {
	if len(page) == 0 {
		return nil
	}
	rows := [][]string{{"ID", "API", "TEAM", "NAME", "ENV", "PLAN", "STATUS", "CREATED", "EXPIRES", "LAST USED"}}
	if l.wide {
		rows[0] = append(rows[0], "SCOPES", "IPS", "LIMITS", "RETIRES", "ROTATED TO", "CREATED BY", "VERSION", "NOTE")
	}
	if l.printed > 0 {
		rows = nil // the columns have their names
	}
	now := time.Now()
	for _, k := range page {
		row := []string{k.ID, k.API, k.Team, k.Name, k.Environment, k.Plan, state(k, now), date(k.CreatedAt), moments(k.ExpiresAt), moments(k.LastUsed)}
		if l.wide {
			f := keys.FieldsOf(k)
			row = append(row, strings.Join(k.Scopes, ","), strings.Join(f.IPs, ","), limitsText(k), moments(k.RetiresAt), k.RotatedTo, k.CreatedBy, fmt.Sprint(k.Version), k.Note)
		}
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	return columns(w, rows)
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}
