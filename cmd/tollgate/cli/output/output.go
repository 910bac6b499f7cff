// Package output prints what commands have to say: tables for people, JSON and YAML for
// programs.
package output

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
)

// Format is a value of --output.
type Format string

// The values of Format.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// String implements pflag.Value.
func (o *Format) String() string { return string(*o) }

// Type implements pflag.Value.
func (o *Format) Type() string { return "format" }

// Set implements pflag.Value.
func (o *Format) Set(text string) error {
	switch Format(text) {
	case Table, JSON, YAML:
		*o = Format(text)
		return nil
	}
	return fmt.Errorf("%q is not table, json or yaml", text)
}

// Encode returns v in the two formats for programs. What v holds is said once, by
// its json tags.
func (o Format) Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	if o == YAML {
		return yaml.JSONToYAML(b.Bytes())
	}
	return b.Bytes(), nil
}

// Fields makes rows of names and values, without those that are empty.
func Fields(pairs ...string) (rows [][]string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			rows = append(rows, pairs[i:i+2])
		}
	}
	return rows
}

// Print prints v for programs; people get the YAML.
func (o Format) Print(w io.Writer, v any) error {
	if o == Table {
		o = YAML
	}
	data, err := o.Encode(v)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// Columns prints rows under each other.
func Columns(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// Time prints a time in UTC; the zero time is nothing.
func Time(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// Date prints the day of a time in UTC; the zero time is nothing.
func Date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

// OrDash is s, or a dash for nothing.
func OrDash(s string) string { return cmp.Or(s, "-") }

// Count is a number of things.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
