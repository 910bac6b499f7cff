package keyfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"

	"tollgate/policy/keys"
	"tollgate/policy/keys/strictjson"
	"tollgate/policy/keys/strictyaml"
)

// Fields is a key in the words of the keys file, of which JSON Lines, CSV and Export use the same.
// What is empty is not given. It redacts its secret and hash wherever it is printed, and only
// json.Marshal writes them.
type Fields struct {
	ID          string   `json:"id,omitempty"`
	API         string   `json:"api,omitempty"`
	Team        string   `json:"team,omitempty"`
	Name        string   `json:"name,omitempty"`
	Note        string   `json:"note,omitempty"`
	Environment string   `json:"environment,omitempty"`
	Plan        string   `json:"plan,omitempty"`
	LimitID     string   `json:"limit_id,omitempty"`
	CreatedBy   string   `json:"created_by,omitempty"`
	RotatedFrom string   `json:"rotated_from,omitempty"`
	RotatedTo   string   `json:"rotated_to,omitempty"`
	Scopes      []string `json:"scopes,omitempty"` // not nil but empty: given, and none
	IPs         []string `json:"ips,omitempty"`
	Limits      []Limit  `json:"limits,omitempty"`
	Extras      []Extra  `json:"extras,omitempty"`
	Status      string   `json:"status,omitempty"`
	ExpiresAt   string   `json:"expires_at,omitempty"` // times are RFC 3339
	RetiresAt   string   `json:"retires_at,omitempty"`
	CreatedAt   string   `json:"created_at,omitempty"`
	UpdatedAt   string   `json:"updated_at,omitempty"`
	AnchorDay   int      `json:"anchor_day,omitempty"`
	Version     int64    `json:"version,omitempty"`
	Weak        bool     `json:"weak,omitempty"`   // of earlier exports; read and ignored
	Secret      string   `json:"secret,omitempty"` // one of these two
	Hash        string   `json:"hash,omitempty"`
}

// Limit is an Override in the words of the keys file.
type Limit struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
}

// Extra is a keys.Extra in the words of the keys file.
type Extra struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
	Until    string `json:"until"`
}

// String names the key.
func (f Fields) String() string { return "Fields{" + keys.Quote(f.ID) + " " + keys.Redacted + "}" }

// Format prints String, whatever the verb.
func (f Fields) Format(s fmt.State, _ rune) { io.WriteString(s, f.String()) }

// LogValue logs String.
func (f Fields) LogValue() slog.Value { return slog.StringValue(f.String()) }

// FieldsOf returns k as Export writes it: with its hash, without LastUsed.
func FieldsOf(k *keys.Key) Fields {
	f := Fields{
		ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, Note: k.Note, Environment: k.Environment, Plan: k.Plan,
		LimitID: k.LimitID, CreatedBy: k.CreatedBy, RotatedFrom: k.RotatedFrom, RotatedTo: k.RotatedTo,
		Scopes: k.Scopes, Status: string(k.Status), AnchorDay: k.AnchorDay, Version: k.Version,
		ExpiresAt: timeText(k.ExpiresAt), RetiresAt: timeText(k.RetiresAt),
		CreatedAt: timeText(k.CreatedAt), UpdatedAt: timeText(k.UpdatedAt),
		Hash: k.Hash(),
	}
	for _, prefix := range k.IPs {
		f.IPs = append(f.IPs, prefix.String())
	}
	for _, o := range k.Limits {
		f.Limits = append(f.Limits, Limit(o))
	}
	for _, x := range k.Extras {
		f.Extras = append(f.Extras, Extra{x.Name, x.Requests, timeText(x.Until)})
	}
	return f
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// ParseFields reads one JSON object, strictly. Its errors do not hold a secret.
func ParseFields(data []byte) (Fields, error) {
	if !utf8.Valid(data) {
		return Fields{}, errors.New("not UTF-8")
	}
	var f Fields
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Fields{}, jsonProblem(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Fields{}, errors.New("text after the end of the JSON object")
	}
	if name, ok := strictjson.Names(data); !ok {
		return Fields{}, fmt.Errorf("unknown or repeated field %s", keys.Quote(name))
	}
	return f, nil
}

func jsonProblem(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind) && kind.Field != "":
		what, _, _ := strings.Cut(kind.Value, " ") // a number would follow
		return &keys.FieldError{Field: kind.Field, Problem: "must be a " + kind.Type.String() + ", not " + what}
	case errors.As(err, &kind):
		return errors.New("must be a JSON object")
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON: %w", err) // names one character at most
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("not JSON: it ends too early")
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("unknown field %s", showField(strings.Trim(name, `"`)))
	}
	return errors.New("not JSON")
}

// Entry reads the texts. It checks only what has no place in a Key, because Import first fills in
// what is missing. Errors are a *FieldError.
func (f *Fields) Entry() (Entry, error) {
	k := keys.Key{
		ID: f.ID, API: f.API, Team: f.Team, Name: f.Name, Note: f.Note, Environment: f.Environment, Plan: f.Plan,
		LimitID: f.LimitID, CreatedBy: f.CreatedBy, RotatedFrom: f.RotatedFrom, RotatedTo: f.RotatedTo,
		Scopes: f.Scopes, Status: keys.Status(f.Status), AnchorDay: f.AnchorDay, Version: f.Version,
	}
	for _, t := range []struct {
		field, text string
		into        *time.Time
	}{
		{"expires_at", f.ExpiresAt, &k.ExpiresAt}, {"retires_at", f.RetiresAt, &k.RetiresAt},
		{"created_at", f.CreatedAt, &k.CreatedAt}, {"updated_at", f.UpdatedAt, &k.UpdatedAt},
	} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.into, err = parseTime(t.field, t.text); err != nil {
			return Entry{}, err
		}
	}
	var err error
	if k.IPs, err = keys.ParseAddresses(f.IPs); err != nil {
		return Entry{}, err
	}
	for _, l := range f.Limits {
		k.Limits = append(k.Limits, keys.Override(l))
	}
	for i, x := range f.Extras {
		until, err := parseTime(fmt.Sprintf("extras[%d].until", i), x.Until)
		if err != nil {
			return Entry{}, err
		}
		k.Extras = append(k.Extras, keys.Extra{Name: x.Name, Requests: x.Requests, Until: until})
	}
	return f.credential(k)
}

// parseTime reads a time of a field, in UTC. Its error is a *FieldError.
func parseTime(field, text string) (at time.Time, err error) {
	if err := at.UnmarshalText([]byte(text)); err != nil || at.IsZero() {
		return time.Time{}, &keys.FieldError{Field: field, Problem: keys.Quote(text) + " is not a time like 2026-01-31T12:00:00Z"}
	}
	return at.UTC(), nil
}

func (f *Fields) credential(k keys.Key) (Entry, error) {
	switch {
	case f.Secret != "" && f.Hash != "":
		return Entry{}, &keys.FieldError{Field: "hash", Problem: "stands beside a secret; give one of the two"}
	case f.Secret != "":
		if problem := keys.SecretProblem(f.Secret); problem != "" {
			return Entry{}, &keys.FieldError{Field: "secret", Problem: problem}
		}
		return Entry{Key: k, Secret: f.Secret}, nil
	case f.Hash != "":
		var err error
		if k.Algorithm, k.Digest, err = keys.ParseHash(f.Hash); err != nil {
			return Entry{}, &keys.FieldError{Field: "hash", Problem: err.Error()}
		}
		return Entry{Key: k}, nil
	}
	return Entry{}, &keys.FieldError{Field: "secret", Problem: "is missing, and so is hash; give one of the two"}
}

// ParseItem reads YAML with items of the list of a keys file ("- id: …"), or a whole one, of which
// line is the first line. Unlike ParseFile it checks each item only for itself, and does not mind
// missing fields. take gets the line of each item, and either what it says or what is wrong with
// it, without a secret; it returns false to stop.
func ParseItem(text string, line int, take func(line int, e Entry, err error) bool) {
	p := &fileReader{ids: map[string]place{}, secrets: map[string]owner{}}
	list, err := p.items(text, line)
	if err != nil {
		take(err.at.line, Entry{}, errors.New(err.what))
		return
	}
	for _, n := range list {
		p.errs = nil
		d := &draft{file: p, at: nodePlace(n), places: map[string]place{}, broken: map[string]bool{}}
		p.fields(n, "a key", d.set)
		if len(p.errs) == 0 {
			d.credential()
		}
		if _, given := d.places["scopes"]; given && d.entry.Key.Scopes == nil {
			d.entry.Key.Scopes = []string{}
		}
		var err error
		if len(p.errs) > 0 {
			err = errors.New(p.errs[0].(*fileError).what)
			d.entry = Entry{}
		}
		if !take(d.at.line, d.entry, err) {
			return
		}
	}
}

// items parses text and returns the nodes of its list of keys.
func (p *fileReader) items(text string, line int) ([]ast.Node, *fileError) {
	if at, bad := firstInvalid(text); bad {
		return nil, &fileError{at: place{at.line + line - 1, at.col}, what: "not UTF-8"}
	}
	file, fault := strictyaml.Parse(text, line, fileBounds(text))
	if fault != nil {
		p.syntaxError(fault)
		return nil, p.errs[0].(*fileError)
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil, nil
	}
	body := file.Docs[0].Body
	if m, ok := body.(*ast.MappingNode); ok {
		for _, pair := range m.Values {
			if name, ok := pair.Key.(*ast.StringNode); ok && name.Value == "keys" && len(m.Values) == 1 {
				body = pair.Value
			}
		}
	}
	switch list := body.(type) {
	case *ast.SequenceNode:
		if len(file.Docs) == 1 {
			return list.Values, nil
		}
	case *ast.NullNode:
		return nil, nil
	}
	return nil, &fileError{at: nodePlace(body), what: "is not one list of keys under the name keys"}
}
