package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
)

func newList(a *access) *cobra.Command {
	l := &listPrinter{}
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "Show keys, by API and id",
		Long: `Show keys, by API and id. If there are more than --limit, the cursor for the rest
is printed too. Which keys are due for rotation: --older-than 90d --status active.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := l.filter.filter(time.Now())
			if err != nil {
				return err
			}
			if l.limit < 0 {
				return fmt.Errorf("--limit: %d is less than 0", l.limit)
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				return l.print(ctx, cmd, a, filter)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	l.filter.add(f)
	f.IntVar(&l.limit, "limit", store.DefaultPage, "how many keys at most; 0 = all")
	f.StringVar(&l.cursor, "cursor", "", "where an earlier list ended")
	f.BoolVar(&l.wide, "wide", false, "show more columns")
	return cmd
}

// filterFlags say which keys a command is about.
type filterFlags struct {
	api, team, plan, environment string
	status                       []string
	olderThan, unusedSince       string
}

func (l *filterFlags) add(f *pflag.FlagSet) {
	f.StringVar(&l.api, "api", "", "only keys of this API")
	f.StringVar(&l.team, "team", "", "only keys of this team")
	f.StringVar(&l.plan, "plan", "", "only keys on this plan")
	f.StringVar(&l.environment, "env", "", "only keys of this environment")
	f.StringSliceVar(&l.status, "status", nil, "only active, inactive or revoked keys; joined with commas")
	f.StringVar(&l.olderThan, "older-than", "", "only keys created longer ago than this, or before it: 90d, 2026-01-31, 2026-01-31T12:00:00Z")
	f.StringVar(&l.unusedSince, "unused-since", "", "only keys not used for so long, or since then: 30d, 2026-01-31, 2026-01-31T12:00:00Z")
}

func (l *filterFlags) filter(now time.Time) (store.Filter, error) {
	filter := store.Filter{API: l.api, Team: l.team, Plan: l.plan, Environment: l.environment}
	for _, s := range l.status {
		switch status := keys.Status(s); status {
		case keys.Active, keys.Inactive, keys.Revoked:
			filter.Status = append(filter.Status, status)
		default:
			return store.Filter{}, fmt.Errorf("--status: %q is not active, inactive or revoked", s)
		}
	}
	var err error
	if filter.OlderThan, err = moment("older-than", l.olderThan, now); err != nil {
		return store.Filter{}, err
	}
	filter.UnusedSince, err = moment("unused-since", l.unusedSince, now)
	return filter, err
}

// listPrinter is what list prints.
type listPrinter struct {
	filter filterFlags
	limit  int
	cursor string
	wide   bool

	printed int
}

// print prints pages until there are enough keys, so that any number of keys
// takes the memory of a page.
func (l *listPrinter) print(ctx context.Context, cmd *cobra.Command, a *access, filter store.Filter) error {
	out := cmd.OutOrStdout()
	cursor := l.cursor
	for {
		n := store.MaxPage
		if l.limit > 0 {
			n = min(n, l.limit-l.printed)
		}
		page, next, err := a.manager.List(ctx, filter, cursor, n)
		var broken *keys.CorruptError
		if err != nil && !errors.As(err, &broken) {
			return explained(err)
		}
		if err != nil { // of single records; the others are what was asked for
			cmd.PrintErrln(exit.Plain(err))
		}
		if err := l.page(out, a.output, page); err != nil {
			return exit.Failed(err)
		}
		l.printed += len(page)
		if cursor = next; cursor == "" || l.limit > 0 && l.printed >= l.limit {
			break
		}
	}
	if err := a.knownNames(filter, l.printed); err != nil {
		return err
	}
	return exit.Failed(l.end(out, cmd.ErrOrStderr(), a.output, cursor))
}

func (l *listPrinter) page(w io.Writer, o output.Format, page []*keys.Key) error {
	if o == output.Table {
		return l.table(w, page)
	}
	for i, k := range page {
		data, err := o.Encode([]keyView{shown(k)})
		if err != nil {
			return err
		}
		text, first := string(data), l.printed+i == 0
		switch {
		case o == output.YAML && first:
			text = "keys:\n" + text
		case o == output.JSON && first:
			text = `{"keys":[` + "\n" + text[1:len(text)-2]
		case o == output.JSON:
			text = ",\n" + text[1:len(text)-2]
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

func (l *listPrinter) end(w, stderr io.Writer, o output.Format, cursor string) error {
	quoted, err := json.Marshal(cursor)
	if err != nil {
		return err
	}
	text := ""
	switch {
	case o == output.Table && cursor != "":
		_, err := fmt.Fprintf(stderr, "there are more: --cursor %s\n", cursor)
		return err
	case o == output.Table && l.printed == 0:
		_, err := fmt.Fprintln(stderr, "no keys")
		return err
	case o == output.YAML && l.printed == 0:
		text = "keys: []\n"
	case o == output.JSON && l.printed == 0:
		text = `{"keys":[`
	case o == output.JSON:
		text = "\n"
	}
	switch {
	case o == output.YAML && cursor != "":
		text += "next: " + string(quoted) + "\n"
	case o == output.JSON && cursor != "":
		text += `],"next":` + string(quoted) + "}\n"
	case o == output.JSON:
		text += "]}\n"
	}
	_, err = io.WriteString(w, text)
	return err
}

func (l *listPrinter) table(w io.Writer, page []*keys.Key) error {
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
		row := []string{k.ID, k.API, k.Team, k.Name, k.Environment, k.Plan, state(k, now), output.Date(k.CreatedAt), output.Time(k.ExpiresAt), output.Time(k.LastUsed)}
		if l.wide {
			f := keyfile.FieldsOf(k)
			row = append(row, strings.Join(k.Scopes, ","), strings.Join(f.IPs, ","), limitsText(k), output.Time(k.RetiresAt), k.RotatedTo, k.CreatedBy, fmt.Sprint(k.Version), k.Note)
		}
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	return output.Columns(w, rows)
}
