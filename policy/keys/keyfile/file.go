// Package keyfile has the keys file: its words, and how keys are read from and written to them.
// Package transfer reads the same words as JSON Lines and CSV, and other systems' files; what it
// hands on is a Record.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"tollgate/policy/keys"
	"tollgate/policy/keys/strictjson"
	"tollgate/policy/keys/strictyaml"
)

// maxFileErrors ends the reading of a file in which nothing fits.
const maxFileErrors = 10

// Entry is one key of a keys file. It redacts its secret wherever it is printed or encoded.
type Entry struct {
	Key    keys.Key // without a digest if the file gave the secret
	Secret string   // as the file gave it; empty if the file gave the hash
}

// Plaintext reports whether the entry carries the secret itself; Key.Digest is not set then.
func (e Entry) Plaintext() bool { return e.Secret != "" }

// String names the key and says in which form it has its secret.
func (e Entry) String() string {
	form := "hash"
	if e.Plaintext() {
		form = "secret"
	}
	return "Entry{" + e.Key.ID + " " + form + " " + keys.Redacted + "}"
}

// Format prints String, whatever the verb.
func (e Entry) Format(f fmt.State, _ rune) { io.WriteString(f, e.String()) }

// LogValue logs String.
func (e Entry) LogValue() slog.Value { return slog.StringValue(e.String()) }

// MarshalText encodes String. It never fails.
func (e Entry) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// ParseFile reads a keys file: strict YAML with one list, keys. Name is only for error texts. The
// error joins up to 10 lines "name:line:col: what", in the order of the file; no line holds a
// secret or a hash.
func ParseFile(name string, data []byte) ([]Entry, error) {
	p := &fileReader{name: name, ids: map[string]place{}, secrets: map[string]owner{}}
	p.read(strings.TrimPrefix(string(data), "\ufeff"))
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs[:min(len(p.errs), maxFileErrors)]...)
	}
	return p.entries, nil
}

// place is a position in a file; both count from 1.
type place struct{ line, col int }

type owner struct {
	id string
	at place
}

type fileReader struct {
	name    string
	entries []Entry
	errs    []error
	ids     map[string]place // where each id was first used
	secrets map[string]owner // who first used each secret and hash
}

func (p *fileReader) fail(at place, format string, args ...any) {
	p.errs = append(p.errs, &fileError{p.name, at, fmt.Sprintf(format, args...)})
}

// fileError is a fault at one place of a file.
type fileError struct {
	name string
	at   place
	what string
}

// Error gives the place as an editor understands it, and the fault.
func (e *fileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.name, e.at.line, e.at.col, e.what)
}

func (p *fileReader) read(text string) {
	if at, ok := firstInvalid(text); ok {
		p.fail(at, "not UTF-8")
		return
	}
	// Fields named twice are looked for in fields, where the message cannot hold a secret.
	file, fault := strictyaml.Parse(text, 1, fileBounds(text))
	if fault != nil {
		p.syntaxError(fault)
		return
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		p.fail(place{1, 1}, "keys is missing")
		return
	}
	if len(file.Docs) > 1 {
		p.fail(tokenPlace(file.Docs[1].Start), "a second document")
		return
	}
	var list ast.Node
	body := file.Docs[0].Body
	p.fields(body, "the file", func(field string, v ast.Node) bool {
		if field == "keys" {
			list = v
		}
		return field == "keys"
	})
	if list == nil {
		if len(p.errs) == 0 {
			p.fail(nodePlace(body), "keys is missing")
		}
		return
	}
	p.each(list, "keys", func(_ int, v ast.Node) { p.entry(v) })
}

// fileBounds is what a keys file, or a part of one, may have: no key nests deeper than its limits,
// and a word or sign is some bytes long.
func fileBounds(text string) strictyaml.Bounds {
	const depth, most = 16, 2 << 20
	return strictyaml.Bounds{Bytes: maxFileBytes, Depth: depth, Tokens: min(100_000+len(text)/4, most), Twice: true}
}

// maxFileBytes is the largest keys file that is read as a whole.
const maxFileBytes = 64 << 20

// syntaxError leaves out a message of the parser that could hold a part of the file.
func (p *fileReader) syntaxError(fault *strictyaml.Fault) {
	message := fault.Message
	if fault.Quotes && (keys.CouldHoldSecret(message) || strings.Contains(message, `"`)) { // cut anywhere
		message = "the text here does not fit"
	}
	p.fail(place{fault.Line, fault.Column}, "not YAML: %s", message)
}

// fields calls set for each field of the mapping n; set says whether it knows the field.
func (p *fileReader) fields(n ast.Node, what string, set func(field string, v ast.Node) bool) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		p.fail(nodePlace(n), "%s must be a mapping of fields, not %s", what, kind(n))
		return
	}
	seen := map[string]place{}
	for _, pair := range m.Values {
		at := nodePlace(pair.Key)
		name, ok := pair.Key.(*ast.StringNode)
		if !ok {
			p.fail(at, "a field name must be plain text, not %s", kind(pair.Key))
			continue
		}
		if first, ok := seen[name.Value]; ok {
			p.fail(at, "field %s again, first on line %d", showField(name.Value), first.line)
			continue
		}
		seen[name.Value] = at
		if !set(name.Value, pair.Value) {
			p.fail(at, "unknown field %s", showField(name.Value))
		}
	}
}

// each calls take for each item of the list n until the file has too many errors; it reports
// whether it saw them all.
func (p *fileReader) each(n ast.Node, what string, take func(i int, v ast.Node)) bool {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		p.fail(nodePlace(n), "%s: must be a list, not %s", what, kind(n))
		return false
	}
	for i, v := range list.Values {
		if len(p.errs) >= maxFileErrors {
			return false
		}
		take(i, v)
	}
	return true
}

func (p *fileReader) entry(n ast.Node) {
	before := len(p.errs)
	d := &draft{file: p, at: nodePlace(n), places: map[string]place{}, broken: map[string]bool{}}
	p.fields(n, "a key", d.set)
	if _, ok := n.(*ast.MappingNode); !ok {
		return
	}
	d.finish()
	if len(p.errs) == before {
		p.entries = append(p.entries, d.entry)
	}
}

// draft is an entry while its fields are read.
type draft struct {
	file   *fileReader
	entry  Entry
	hash   string
	at     place
	places map[string]place // of every field that is given, and of the items of lists
	broken map[string]bool  // the fields that already have their error
}

func (d *draft) fail(field, format string, args ...any) {
	at, ok := d.places[field]
	if !ok {
		at = d.at
	}
	d.broken[field] = true
	d.file.fail(at, "%s: %s", field, fmt.Sprintf(format, args...))
}

func (d *draft) set(field string, v ast.Node) bool {
	k := &d.entry.Key
	texts := map[string]*string{
		"id": &k.ID, "api": &k.API, "team": &k.Team, "name": &k.Name, "note": &k.Note, "environment": &k.Environment,
		"plan": &k.Plan, "limit_id": &k.LimitID, "secret": &d.entry.Secret, "hash": &d.hash,
		"status": (*string)(&k.Status), "created_by": &k.CreatedBy, "rotated_from": &k.RotatedFrom, "rotated_to": &k.RotatedTo,
	}
	times := map[string]*time.Time{
		"expires_at": &k.ExpiresAt, "retires_at": &k.RetiresAt, "created_at": &k.CreatedAt, "updated_at": &k.UpdatedAt,
	}
	d.places[field] = nodePlace(v)
	switch {
	case texts[field] != nil:
		d.text(field, v, texts[field])
	case times[field] != nil:
		d.time(field, v, times[field])
	case field == "anchor_day":
		n := int64(0)
		if d.number(field, v, &n) && (n < 1 || n > 31) {
			d.fail(field, "%d is not a day from 1 to 31", n)
		}
		k.AnchorDay = int(n)
	case field == "version":
		d.number(field, v, &k.Version)
	case field == "weak":
		d.flag(field, v) // of earlier exports
	case field == "scopes":
		d.texts(field, v, func(_, scope string) { k.Scopes = append(k.Scopes, scope) })
	case field == "ips":
		d.texts(field, v, d.address)
	case field == "limits":
		d.overrides(v)
	case field == "extras":
		d.extras(v)
	default:
		return false
	}
	return true
}

func (d *draft) text(field string, v ast.Node, into *string) bool {
	d.places[field] = nodePlace(v)
	switch s := v.(type) {
	case *ast.StringNode:
		*into = s.Value
	case *ast.LiteralNode:
		*into = s.Value.Value
	default:
		d.fail(field, "must be text, not %s%s", kind(v), quoteHint(v))
		return false
	}
	return true
}

func (d *draft) time(field string, v ast.Node, into *time.Time) {
	var s string
	if !d.text(field, v, &s) {
		return
	}
	if err := into.UnmarshalText([]byte(s)); err != nil || into.IsZero() {
		d.fail(field, "%s is not a time like 2026-01-31T12:00:00Z", keys.Quote(s))
	}
	*into = into.UTC()
}

func (d *draft) number(field string, v ast.Node, into *int64) bool {
	d.places[field] = nodePlace(v)
	n, ok := v.(*ast.IntegerNode)
	if !ok {
		d.fail(field, "must be a whole number, not %s", kind(v))
		return false
	}
	switch value := n.Value.(type) {
	case int64:
		*into = value
		return true
	case uint64:
		if value < 1<<63 {
			*into = int64(value)
			return true
		}
	}
	d.fail(field, "%s is too large", keys.Quote(n.Token.Value))
	return false
}

func (d *draft) flag(field string, v ast.Node) {
	if _, ok := v.(*ast.BoolNode); !ok {
		d.fail(field, "must be true or false, not %s", kind(v))
	}
}

func (d *draft) texts(field string, v ast.Node, take func(field, s string)) {
	if !d.file.each(v, field, func(i int, item ast.Node) {
		at := fmt.Sprintf("%s[%d]", field, i)
		var s string
		d.text(at, item, &s)
		take(at, s)
	}) {
		d.broken[field] = true
	}
}

func (d *draft) address(field, s string) {
	if d.broken[field] {
		return
	}
	prefix, err := keys.ParseAddress(s)
	if err != nil {
		d.fail(field, "%v", err)
		return
	}
	d.entry.Key.IPs = append(d.entry.Key.IPs, prefix)
}

func (d *draft) overrides(v ast.Node) {
	d.file.each(v, "limits", func(i int, item ast.Node) {
		var o keys.Override
		d.object(fmt.Sprintf("limits[%d]", i), item, []string{"name", "requests"}, func(field, at string, v ast.Node) {
			switch field {
			case "name":
				d.text(at, v, &o.Name)
			case "requests":
				d.number(at, v, &o.Requests)
			}
		})
		d.entry.Key.Limits = append(d.entry.Key.Limits, o)
	})
}

func (d *draft) extras(v ast.Node) {
	d.file.each(v, "extras", func(i int, item ast.Node) {
		var x keys.Extra
		d.object(fmt.Sprintf("extras[%d]", i), item, []string{"name", "requests", "until"}, func(field, at string, v ast.Node) {
			switch field {
			case "name":
				d.text(at, v, &x.Name)
			case "requests":
				d.number(at, v, &x.Requests)
			case "until":
				d.time(at, v, &x.Until)
			}
		})
		d.entry.Key.Extras = append(d.entry.Key.Extras, x)
	})
}

// object reads an item of a list, which has all of these fields and no others.
func (d *draft) object(at string, item ast.Node, fields []string, take func(field, at string, v ast.Node)) {
	d.places[at] = nodePlace(item)
	before := len(d.file.errs)
	d.file.fields(item, at, func(field string, v ast.Node) bool {
		if !slices.Contains(fields, field) {
			return false
		}
		take(field, at+"."+field, v)
		return true
	})
	for _, field := range fields {
		place := at + "." + field
		if _, given := d.places[place]; !given && len(d.file.errs) == before {
			d.places[place] = d.places[at]
			d.fail(place, "is missing")
		}
	}
	if len(d.file.errs) > before {
		for _, field := range fields {
			d.broken[at+"."+field] = true
		}
	}
}

// finish fills in what the file left out and checks the entry as a whole.
func (d *draft) finish() {
	k := &d.entry.Key
	for _, field := range []string{"id", "api", "name"} {
		if _, given := d.places[field]; !given {
			d.fail(field, "is missing")
		}
	}
	d.credential()
	if _, given := d.places["status"]; !given {
		k.Status = keys.Active
	}
	if _, given := d.places["limit_id"]; !given {
		k.LimitID = k.ID
		d.broken["limit_id"] = d.broken["id"] || keys.IDProblem(k.ID) != ""
	}
	if _, given := d.places["anchor_day"]; !given {
		k.AnchorDay = 1
		if !k.CreatedAt.IsZero() {
			k.AnchorDay = k.CreatedAt.Day()
		}
	}
	if _, given := d.places["updated_at"]; !given {
		k.UpdatedAt = k.CreatedAt
	}
	if _, given := d.places["version"]; !given {
		k.Version = 1
	}
	if k.Algorithm == "" { // no hash
		k.Algorithm = keys.AlgorithmHMACSHA256
	}
	if k.Status == keys.Deleted {
		d.fail("status", `"deleted" is not active, inactive or revoked`)
	}
	for _, problem := range k.Problems() {
		if !d.broken[problem.Field] {
			d.fail(problem.Field, "%s", problem.Problem)
		}
	}
	d.unique()
}

// credential wants exactly one of secret and hash.
func (d *draft) credential() {
	_, secret := d.places["secret"]
	_, hash := d.places["hash"]
	switch {
	case secret && hash:
		d.fail("hash", "stands beside a secret; give one of the two")
	case !secret && !hash:
		d.fail("secret", "is missing, and so is hash; give one of the two")
	case secret && !d.broken["secret"]:
		if problem := keys.SecretProblem(d.entry.Secret); problem != "" {
			d.fail("secret", "%s", problem)
		}
	case hash && !d.broken["hash"]:
		algorithm, digest, err := keys.ParseHash(d.hash)
		if err != nil {
			d.fail("hash", "%v", err)
			return
		}
		d.entry.Key.Algorithm, d.entry.Key.Digest = algorithm, digest
	}
}

// unique refuses an id or a secret that an earlier entry of the file has.
func (d *draft) unique() {
	id := d.entry.Key.ID
	if first, ok := d.file.ids[id]; ok {
		d.fail("id", "%s again, first on line %d", keys.Quote(id), first.line)
	} else if !d.broken["id"] {
		d.file.ids[id] = d.places["id"]
	}
	field, value := "secret", d.entry.Secret
	if d.hash != "" {
		field, value = "hash", strings.ToLower(d.hash)
	}
	if d.broken["secret"] || d.broken["hash"] {
		return
	}
	if first, ok := d.file.secrets[value]; ok {
		d.fail(field, "the same as that of %s on line %d", keys.Quote(first.id), first.at.line)
		return
	}
	d.file.secrets[value] = owner{id, d.places[field]}
}

func firstInvalid(text string) (place, bool) {
	if utf8.ValidString(text) {
		return place{}, false
	}
	at := place{1, 1}
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
			break
		}
		at.col++
		if r == '\n' {
			at = place{at.line + 1, 1}
		}
	}
	return at, true
}

// nodePlace is where a reader sees the node begin: for a block mapping the parser itself points at
// its first colon.
func nodePlace(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return nodePlace(m.Values[0].Key)
	}
	return tokenPlace(n.GetToken())
}

func tokenPlace(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{t.Position.Line, t.Position.Column}
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode:
		return "a number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a fraction"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	}
	return "an anchor, alias, tag or merge, which this file does not know"
}

func quoteHint(n ast.Node) string {
	switch n.(type) {
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "; put it in quotes"
	}
	return ""
}

// showField shows a name only if it is too short to be a secret whose colon or space was forgotten.
func showField(name string) string {
	if len(name) < keys.MinSecret && strictjson.IsName(name) {
		return fmt.Sprintf("%q", name)
	}
	return "(a name not shown: it could hold a secret)"
}
