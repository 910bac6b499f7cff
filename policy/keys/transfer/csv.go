package transfer

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

// table is a CSV file. No field of a key holds a line break, so each line is a row, and a quote
// that nobody closes spoils one row.
type table struct {
	comma   rune
	columns []string
}

func readCSV(r io.Reader, yield func(keyfile.Record, error) bool) {
	l := newLines(r)
	var t *table
	l.each(yield, func(line []byte) bool {
		if t == nil {
			var err error
			if t, err = newTable(line); err != nil {
				return yield(keyfile.Record{Line: l.number}, broken(err)) && false
			}
			return true
		}
		f, err := t.row(line)
		if err != nil {
			return yield(keyfile.Record{Line: l.number}, err)
		}
		return yield(record(l.number, f))
	})
}

// newTable reads the first line. Spreadsheets of some countries write ; for the comma.
func newTable(line []byte) (*table, error) {
	t := &table{comma: ','}
	if !bytes.ContainsRune(line, ',') && bytes.ContainsRune(line, ';') {
		t.comma = ';'
	}
	cells, err := t.cells(line)
	if err != nil {
		return nil, err
	}
	for i, name := range cells {
		name = strings.TrimSpace(name)
		if err := set(&keyfile.Fields{}, name, ""); err != nil {
			return nil, fmt.Errorf("column %d: the first line must name the columns, as the keys file does: %w", i+1, err)
		}
		for j, other := range t.columns {
			if other == name {
				return nil, fmt.Errorf("columns %d and %d are both %s", j+1, i+1, name)
			}
		}
		t.columns = append(t.columns, name)
	}
	return t, nil
}

func (t *table) cells(line []byte) ([]string, error) {
	c := csv.NewReader(bytes.NewReader(line))
	c.Comma = t.comma
	c.FieldsPerRecord = -1
	cells, err := c.Read()
	var parse *csv.ParseError
	switch {
	case errors.As(err, &parse):
		return nil, fmt.Errorf("not CSV: byte %d: %w", parse.Column, parse.Err)
	case err != nil:
		return nil, fmt.Errorf("not CSV: %w", err)
	}
	return cells, nil
}

func (t *table) row(line []byte) (*keyfile.Fields, error) {
	cells, err := t.cells(line)
	if err != nil {
		return nil, err
	}
	if len(cells) != len(t.columns) {
		return nil, fmt.Errorf("has %d columns, the first line has %d", len(cells), len(t.columns))
	}
	f := &keyfile.Fields{}
	for i, cell := range cells {
		if err := set(f, t.columns[i], cell); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// set puts the text of a cell into the field of this name; an empty text is not given.
func set(f *keyfile.Fields, name, text string) error {
	var err error
	switch name {
	case "scopes":
		f.Scopes, err = cell(name, text)
	case "ips":
		f.IPs, err = cell(name, text)
	case "limits":
		f.Limits, err = limits(text)
	case "extras":
		f.Extras, err = extras(text)
	case "anchor_day":
		f.AnchorDay, err = number[int](name, text)
	case "version":
		f.Version, err = number[int64](name, text)
	case "weak": // of earlier exports
		if text != "" && text != "true" && text != "false" {
			err = &keys.FieldError{Field: name, Problem: "is not true or false"}
		}
	default:
		into := texts(f)[name]
		if into == nil {
			return errors.New("it is not a field of a key")
		}
		*into = text
	}
	return err
}

func texts(f *keyfile.Fields) map[string]*string {
	return map[string]*string{
		"id": &f.ID, "api": &f.API, "team": &f.Team, "name": &f.Name, "note": &f.Note, "environment": &f.Environment,
		"plan": &f.Plan, "limit_id": &f.LimitID, "created_by": &f.CreatedBy, "rotated_from": &f.RotatedFrom,
		"rotated_to": &f.RotatedTo, "status": &f.Status, "expires_at": &f.ExpiresAt, "retires_at": &f.RetiresAt,
		"created_at": &f.CreatedAt, "updated_at": &f.UpdatedAt, "secret": &f.Secret, "hash": &f.Hash,
	}
}

// cell is list for a text that must hold an item if it holds anything: signs alone would be lost.
func cell(name, text string) ([]string, error) {
	out := list(text)
	if out == nil && strings.TrimSpace(text) != "" {
		return nil, &keys.FieldError{Field: name, Problem: "holds no item"}
	}
	return out, nil
}

// list cuts a text at | or, where there is none, at spaces; nil if there is nothing.
func list(text string) []string {
	parts := strings.Fields(text)
	if strings.Contains(text, "|") {
		parts = strings.Split(text, "|")
	}
	var out []string
	for _, part := range parts {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// extras reads "month=500@2026-12-31T23:59:59Z|month=20@2027-01-31T23:59:59Z".
func extras(text string) ([]keyfile.Extra, error) {
	var out []keyfile.Extra
	all, err := cell("extras", text)
	for i, part := range all {
		at := fmt.Sprintf("extras[%d]", i)
		limit, until, ok := strings.Cut(part, "@")
		name, requests, sized := strings.Cut(limit, "=")
		if !ok || !sized {
			return nil, &keys.FieldError{Field: at, Problem: "is not a limit's name, =, a number, @ and a time"}
		}
		n, err := number[int64](at+".requests", requests)
		if err != nil || requests == "" {
			return nil, &keys.FieldError{Field: at + ".requests", Problem: "is not a whole number"}
		}
		out = append(out, keyfile.Extra{Name: name, Requests: n, Until: until})
	}
	return out, err
}

// limits reads "minute=60|day=1000".
func limits(text string) ([]keyfile.Limit, error) {
	var out []keyfile.Limit
	all, err := cell("limits", text)
	for i, part := range all {
		at := fmt.Sprintf("limits[%d]", i)
		name, requests, ok := strings.Cut(part, "=")
		if !ok {
			return nil, &keys.FieldError{Field: at, Problem: "is not a limit's name, = and a number"}
		}
		n, err := number[int64](at+".requests", requests)
		if err != nil || requests == "" {
			return nil, &keys.FieldError{Field: at + ".requests", Problem: "is not a whole number"}
		}
		out = append(out, keyfile.Limit{Name: name, Requests: n})
	}
	return out, err
}

func number[N int | int64](field, text string) (N, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || int64(N(n)) != n {
		return 0, &keys.FieldError{Field: field, Problem: "is not a whole number"}
	}
	return N(n), nil
}
