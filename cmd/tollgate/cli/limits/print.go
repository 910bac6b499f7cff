package limits

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tollgate/cmd/tollgate/cli/output"
)

// state is what a key may spend and has spent.
type state struct {
	Key        string  `json:"key"`
	API        string  `json:"api"`
	Plan       string  `json:"plan,omitempty"`
	LimitID    string  `json:"limit_id,omitempty"` // whose counters they are, if not the key's own
	Limits     []limit `json:"limits"`
	Concurrent *slots  `json:"concurrent,omitempty"`
	Grants     []grant `json:"grants,omitempty"`
}

// limit is one limit in the window that is in force.
type limit struct {
	Name  string `json:"name"`
	Per   string `json:"per"`
	Size  int64  `json:"size"` // with what is granted
	Spent int64  `json:"spent"`
	// Held is the part of Spent that servers have leased.
	Held   int64     `json:"held"`
	Left   int64     `json:"left"`
	Resets time.Time `json:"resets"`
}

type slots struct {
	Size  int64 `json:"size"`
	InUse int64 `json:"in_use"`
}

// grant is what a limit has more for a time.
type grant struct {
	Name     string    `json:"name"`
	Requests int64     `json:"requests"`
	Until    time.Time `json:"until"`
}

func (s *state) print(w io.Writer, format output.Format) error {
	if format != output.Table {
		return format.Print(w, s)
	}
	title := "key " + s.Key + " of api " + s.API
	if s.Plan != "" {
		title += ", plan " + s.Plan
	}
	if s.LimitID != "" {
		title += "; it counts as " + s.LimitID
	}
	if _, err := fmt.Fprintln(w, title); err != nil {
		return err
	}
	if len(s.Limits) == 0 && s.Concurrent == nil {
		_, err := fmt.Fprintln(w, "no limits")
		return err
	}
	rows := [][]string{{"LIMIT", "PER", "SIZE", "SPENT", "HELD", "LEFT", "RESETS", "GRANTED"}}
	for _, l := range s.Limits {
		rows = append(rows, []string{l.Name, l.Per, number(l.Size), number(l.Spent), number(l.Held), number(l.Left), output.Time(l.Resets), s.granted(l.Name)})
	}
	if c := s.Concurrent; c != nil {
		rows = append(rows, []string{"concurrent", "-", number(c.Size), number(c.InUse), "-", number(max(c.Size-c.InUse, 0)), "-", s.granted("concurrent")})
	}
	return output.Columns(w, rows)
}

// granted names the grants of a limit.
func (s *state) granted(name string) string {
	var all []string
	for _, g := range s.Grants {
		if g.Name == name {
			all = append(all, "+"+number(g.Requests)+" until "+output.Time(g.Until))
		}
	}
	return output.OrDash(strings.Join(all, ", "))
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// printReset prints what was reset.
func printReset(w io.Writer, format output.Format, before, after []limit) error {
	if format != output.Table {
		return format.Print(w, struct {
			Before []limit `json:"before"`
			After  []limit `json:"after"`
		}{before, after})
	}
	for i, l := range after {
		held := ""
		if l.Held > 0 {
			held = ", which servers hold"
		}
		if _, err := fmt.Fprintf(w, "%s: %d of %d spent%s; it was %d\n", l.Name, l.Spent, l.Size, held, before[i].Spent); err != nil {
			return err
		}
	}
	return nil
}
