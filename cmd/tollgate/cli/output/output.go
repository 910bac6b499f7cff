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
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

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
// its json tags. What a terminal could obey stands there as an escape: texts may come
// from clients and logs.
func (o Format) Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	if o == YAML {
		return toYAML(b.Bytes())
	}
	return escaped(b.Bytes()), nil
}

// escaped writes what cannot be printed in the texts of a JSON document as JSON does.
// The encoder leaves that to ASCII's control characters.
func escaped(document []byte) []byte {
	out := make([]byte, 0, len(document))
	for _, r := range string(document) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			first, second := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, first, second)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// toYAML returns a JSON document as YAML. A text that cannot be printed is one in double
// quotes, with escapes as JSON has them.
func toYAML(document []byte) ([]byte, error) {
	var v any
	if err := yaml.UnmarshalWithOptions(document, &v, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	return yaml.MarshalWithOptions(v, yaml.CustomMarshaler(func(text string) ([]byte, error) {
		if !strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			return yaml.Marshal(text)
		}
		quoted, err := json.Marshal(text)
		return escaped(quoted), err
	}))
}

// Printable is a text that somebody else may have chosen, for a line of a terminal, which could
// obey it else.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
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

// Columns prints rows under each other. Their texts may be anybody's, see Printable.
func Columns(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = Printable(cell)
		}
		if _, err := fmt.Fprintln(t, strings.Join(cells, "\t")); err != nil {
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
