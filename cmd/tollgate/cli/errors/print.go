package errors

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tollgate/cmd/tollgate/cli/usage"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
)

// output prints entries.
type output struct {
	w      io.Writer
	format usage.Format
	begun  bool // the header is printed
}

// Row is an entry for programs.
type Row struct {
	Time      time.Time `json:"time"`
	Key       string    `json:"key,omitempty"`
	UnknownAs string    `json:"unknown_key,omitempty"` // the name of a secret that is no known key's
	Reason    string    `json:"reason"`
	Code      int       `json:"code,omitempty"`
	Route     string    `json:"route,omitempty"`
	Address   string    `json:"address,omitempty"`
	Decision  string    `json:"decision_id,omitempty"`
	Request   string    `json:"request_id,omitempty"`
	More      uint64    `json:"more,omitempty"` // alike, not kept
	Until     time.Time `json:"more_until,omitzero"`
	// OtherKeys is set where a line tells of no request, but how many more there were of keys that
	// were too many to be told apart.
	OtherKeys bool `json:"other_keys,omitempty"`
}

// RowOf returns that of an entry.
func RowOf(e *errorlog.Entry) Row {
	return Row{
		Time: e.Time, Key: e.Key, UnknownAs: e.Handle, Reason: e.Reason, Code: e.Code, Route: e.Route, Address: e.Address,
		Decision: e.Decision, Request: e.Request, More: e.More, Until: e.Until, OtherKeys: e.Others,
	}
}

func rowsOf(entries []errorlog.Entry) []Row {
	rows := []Row{}
	for i := range entries {
		rows = append(rows, RowOf(&entries[i]))
	}
	return rows
}

// all prints what was found.
func (o *output) all(about string, since time.Time, a *journal.Answer) error {
	if o.format == usage.JSON {
		e := json.NewEncoder(o.w)
		e.SetEscapeHTML(false)
		return e.Encode(struct {
			About   string    `json:"about"`
			Since   time.Time `json:"since"`
			Entries []Row     `json:"entries"`
			Others  []Row     `json:"not_told_apart,omitempty"`
			Cut     bool      `json:"cut,omitempty"`
			Full    bool      `json:"full,omitempty"`
			Note    string    `json:"note,omitempty"`
		}{about, since.UTC(), rowsOf(a.Entries), rowsOf(a.Others), a.Cut, a.Full, note(since, a)})
	}
	if o.format == usage.Table {
		if _, err := fmt.Fprintf(o.w, "%s, since %s UTC\n", about, since.UTC().Format("2006-01-02 15:04")); err != nil {
			return err
		}
	}
	if len(a.Entries) > 0 || o.format == usage.CSV {
		if err := o.more(a.Entries); err != nil {
			return err
		}
	}
	if text := note(since, a); text != "" && o.format == usage.Table {
		_, err := fmt.Fprintln(o.w, text)
		return err
	}
	return nil
}

// note says what a reader has to know about what is not shown.
func note(since time.Time, a *journal.Answer) string {
	var notes []string
	if len(a.Entries) == 0 {
		notes = append(notes, "none")
	}
	if a.Cut {
		notes = append(notes, "there are older ones: --limit")
	}
	if a.Full && len(a.Entries) > 0 && a.Entries[0].Time.After(since) {
		notes = append(notes, "no more are kept of a key; older ones are gone")
	}
	var others uint64
	for i := range a.Others {
		others += a.Others[i].More
	}
	if others > 0 {
		notes = append(notes, fmt.Sprintf("and %d more of all keys of the API, which were too many to be told apart", others))
	}
	return strings.Join(notes, "; ")
}

// more prints entries behind what was printed before.
func (o *output) more(entries []errorlog.Entry) error {
	switch o.format {
	case usage.JSON:
		e := json.NewEncoder(o.w)
		e.SetEscapeHTML(false)
		for i := range entries {
			if err := e.Encode(RowOf(&entries[i])); err != nil {
				return err
			}
		}
		return nil
	case usage.CSV:
		return o.csv(entries)
	}
	return o.table(entries)
}

func (o *output) csv(entries []errorlog.Entry) error {
	c := csv.NewWriter(o.w)
	if !o.begun {
		_ = c.Write([]string{"time", "key", "unknown_key", "reason", "code", "route", "address", "decision_id", "request_id", "more", "more_until", "other_keys"})
		o.begun = true
	}
	for i := range entries {
		e := &entries[i]
		until := ""
		if !e.Until.IsZero() {
			until = stamp(e.Until)
		}
		_ = c.Write([]string{
			stamp(e.Time), e.Key, e.Handle, e.Reason, code(e), e.Route, e.Address, e.Decision, e.Request,
			strconv.FormatUint(e.More, 10), until, strconv.FormatBool(e.Others),
		})
	}
	c.Flush()
	return c.Error()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func code(e *errorlog.Entry) string {
	if e.Code == 0 {
		return ""
	}
	return strconv.Itoa(e.Code)
}

// line has the widths of what is usual, so that lines that come later stand below those before.
const line = "%-19s  %-20s  %-4s  %-16s  %-20s  %-15s  %-16s  %s\n"

func (o *output) table(entries []errorlog.Entry) error {
	var b strings.Builder
	if !o.begun {
		fmt.Fprintf(&b, line, "TIME (UTC)", "REASON", "CODE", "ROUTE", "KEY", "ADDRESS", "DECISION", "REQUEST")
		o.begun = true
	}
	for i := range entries {
		e := &entries[i]
		if e.Others {
			fmt.Fprintf(&b, "%-19s  %-20s  %d of other keys until %s\n", e.Time.UTC().Format(time.DateTime), e.Reason, e.More, e.Until.UTC().Format(time.TimeOnly))
			continue
		}
		key := e.Key
		if key == "" && e.Handle != "" {
			key = "(" + e.Handle + ")"
		}
		dash := func(s string) string { return cmp.Or(s, "-") }
		fmt.Fprintf(&b, line, e.Time.UTC().Format(time.DateTime), e.Reason, dash(code(e)), dash(e.Route), dash(key), dash(e.Address), dash(e.Decision), dash(e.Request))
		if e.More > 0 {
			fmt.Fprintf(&b, "%-19s  and %d more until %s\n", "", e.More, e.Until.UTC().Format(time.TimeOnly))
		}
	}
	_, err := io.WriteString(o.w, b.String())
	return err
}
