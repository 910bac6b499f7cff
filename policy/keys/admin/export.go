package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// ExportFormat is a way in which Export writes keys down. Import and ParseFile read both.
type ExportFormat string

// The two formats.
const (
	ExportJSONLines ExportFormat = "jsonl" // a JSON object a line
	ExportYAML      ExportFormat = "yaml"  // a keys file
)

// Export writes the keys that the filter takes, with hashes and without secrets, in the order of
// API and id, and returns how many. Tombstones, earlier hashes and the time of the last use are not
// part of an export. Nothing is kept in memory but a page of keys. Errors: a *ForbiddenError for
// all but the operator; *CorruptErrors, beside everything else being written; an error of w; any
// other means that the store did not answer, and what is written is not all.
func (m *Manager) Export(ctx context.Context, w io.Writer, format ExportFormat, f store.Filter) (n int, err error) {
	if err := m.who.Check(roles.ActionExport, f.API, ""); err != nil {
		return 0, err
	}
	e := &exporter{w: bufio.NewWriterSize(w, 64<<10), format: format}
	if format != ExportJSONLines && format != ExportYAML {
		return 0, &keys.FieldError{Field: "format", Problem: keys.Quote(string(format)) + " is not jsonl or yaml"}
	}
	for cursor, more := "", true; more; more = cursor != "" {
		var page []*keys.Key
		page, cursor, err = m.store.List(ctx, f, cursor, store.MaxPage)
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
	var corrupt *keys.CorruptError
	if err == nil {
		return nil
	}
	if !errors.As(err, &corrupt) {
		return err
	}
	e.corrupt = append(e.corrupt, err)
	return nil
}

func (e *exporter) key(k *keys.Key) error {
	f := keyfile.FieldsOf(k)
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
		text = f.AppendYAML(text)
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
