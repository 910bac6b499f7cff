package keys

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// ExportFormat is a way in which Export writes keys down. Import and ParseFile read both.
type ExportFormat string

// The two formats.
const (
	ExportJSONLines ExportFormat = "jsonl" // a JSON object a line
	ExportYAML      ExportFormat = "yaml"  // a keys file
)

// Export writes the keys that the filter takes, with hashes and without secrets, in the order of API and id, and
// returns how many. Tombstones, earlier hashes and the time of the last use are not part of an export. Nothing is kept in memory but
// a page of keys. Errors: a *ForbiddenError for all but the operator; *CorruptErrors, beside
// everything else being written; an error of w; any other means that the store did not answer, and what is written is
// not all.
func (m *Manager) Export(ctx context.Context, w io.Writer, format ExportFormat, f Filter) (n int, err error) {
	if err := m.who.Check(ActionExport, f.API, ""); err != nil {
		return 0, err
	}
	e := &exporter{w: bufio.NewWriterSize(w, 64<<10), format: format}
	if format != ExportJSONLines && format != ExportYAML {
		return 0, &FieldError{"format", show(string(format)) + " is not jsonl or yaml"}
	}
	for cursor, more := "", true; more; more = cursor != "" {
		var page []*Key
		page, cursor, err = m.store.List(ctx, f, cursor, MaxPage)
		if err := e.note(err); err != nil {
			return e.n, errors.Join(err, e.w.Flush())
		}
		for _, k := range page {
			if err := e.key(k); err != nil {
				return e.n, fmt.Errorf("keys: export: %w", err)
			}
		}
	}
	return e.n, e.finish()
}

type exporter struct {
	w       *bufio.Writer
	format  ExportFormat
	n       int
	corrupt []error
}

// note keeps errors of single records, and returns others.
func (e *exporter) note(err error) error {
	var corrupt *CorruptError
	if err == nil {
		return nil
	}
	if !errors.As(err, &corrupt) {
		return err
	}
	e.corrupt = append(e.corrupt, err)
	return nil
}

func (e *exporter) key(k *Key) error {
	f := FieldsOf(k)
	var text []byte
	if e.format == ExportJSONLines {
		var err error
		if text, err = json.Marshal(f); err != nil {
			return err
		}
		text = append(text, '\n')
	} else {
		if e.n == 0 {
			text = append(text, "keys:\n"...)
		}
		text = f.appendYAML(text)
	}
	e.n++
	_, err := e.w.Write(text)
	return err
}

func (e *exporter) finish() error {
	if e.n == 0 && e.format == ExportYAML {
		e.w.WriteString("keys: []\n")
	}
	err := e.w.Flush()
	return errors.Join(append(e.corrupt, err)...)
}

// appendYAML adds f as an item of the list of a keys file.
func (f *Fields) appendYAML(to []byte) []byte {
	mark := "- "
	field := func(name, value string) {
		if value != "" {
			to = append(to, mark+name+": "+value+"\n"...)
			mark = "  "
		}
	}
	list := func(items []string) string {
		if items == nil {
			return ""
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	var scopes, ips, limits []string
	for _, s := range f.Scopes {
		scopes = append(scopes, yamlText(s))
	}
	for _, s := range f.IPs {
		ips = append(ips, yamlText(s))
	}
	for _, l := range f.Limits {
		limits = append(limits, fmt.Sprintf("{name: %s, requests: %d}", yamlText(l.Name), l.Requests))
	}
	field("id", yamlText(f.ID))
	field("api", yamlText(f.API))
	field("team", yamlText(f.Team))
	field("name", yamlText(f.Name))
	field("note", yamlText(f.Note))
	field("environment", yamlText(f.Environment))
	field("plan", yamlText(f.Plan))
	field("scopes", list(scopes))
	field("ips", list(ips))
	field("limits", list(limits))
	field("status", yamlText(f.Status))
	field("expires_at", yamlText(f.ExpiresAt))
	field("retires_at", yamlText(f.RetiresAt))
	field("limit_id", yamlText(f.LimitID))
	field("rotated_from", yamlText(f.RotatedFrom))
	field("rotated_to", yamlText(f.RotatedTo))
	field("created_by", yamlText(f.CreatedBy))
	field("created_at", yamlText(f.CreatedAt))
	field("updated_at", yamlText(f.UpdatedAt))
	field("anchor_day", yamlNumber(int64(f.AnchorDay)))
	field("version", yamlNumber(f.Version))
	field("secret", yamlText(f.Secret))
	field("hash", yamlText(f.Hash))
	return to
}

func yamlNumber(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// yamlText writes what cannot be mistaken for anything else without quotes, because that is how people write it.
func yamlText(s string) string {
	words := []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
	plain := func(c byte) bool { return isBase62(c) || c == '_' || c == '-' }
	if s == "" || isLetter(s[0]) && only(s, plain) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	var quoted bytes.Buffer
	e := json.NewEncoder(&quoted)
	e.SetEscapeHTML(false)
	e.Encode(s) // never fails for a string
	return strings.TrimSuffix(quoted.String(), "\n")
}
