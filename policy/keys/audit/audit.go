// Package audit records every change of keys, teams and members before it is made, in a capped
// stream of Redis.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// DefaultEntries is how many entries the audit stream keeps if nobody says otherwise: about two a
// change.
const DefaultEntries = 100_000

// What can go wrong around a change that must be audited. Test with errors.Is.
var (
	ErrNotAudited  = errors.New("keys: the audit stream did not take the intent, so nothing was changed")
	ErrOutcomeLost = errors.New("keys: the audit stream did not take the outcome; its intent stands without one")
	ErrCursor      = errors.New("keys: not a cursor of the audit stream")
)

const (
	streamKey = "tg:v1:audit"
	// entryField is the only field of a stream entry; the server's clock gives the entry its time.
	entryField = "entry"
	// outcomeTime is how long an outcome is tried for when the caller's own time is up: the change
	// is made already.
	outcomeTime    = 2 * time.Second
	maxResultBytes = 512
	maxPage        = 1000
)

// WriteACL is for recording a change. It is enough to trim the stream as well, because XADD does.
func WriteACL() connect.ACL {
	return connect.ACL{Commands: []string{"xadd"}, Keys: []string{streamKey}}
}

// ReadACL is for reading the stream.
func ReadACL() connect.ACL {
	return connect.ACL{Commands: []string{"xrange", "xrevrange"}, Keys: []string{streamKey}}
}

// Entry is one line of the audit stream. A change is two: an intent, written before it takes
// effect, and an outcome that names it. An intent without outcome means that nobody can say whether
// the change was made.
type Entry struct {
	ID   string    `json:"id"`   // of this entry in the stream; set by Read
	Time time.Time `json:"time"` // of Redis' clock, UTC, whole milliseconds; set by Read

	// Of an intent:
	Who     string          `json:"who,omitempty"`      // Actor.Who
	Role    string          `json:"role,omitempty"`     // Actor.RoleName
	Address string          `json:"address,omitempty"`  // Actor.Address
	Action  roles.Action    `json:"action,omitempty"`   //
	API     string          `json:"api,omitempty"`      // which the changed thing belongs to
	Team    string          `json:"team,omitempty"`     // likewise
	IDs     []string        `json:"ids,omitempty"`      // of the keys, members or teams; none for a bulk change
	MoreIDs int             `json:"more_ids,omitempty"` // how many there are beyond the IDs, of which an entry has 1,000 at most
	Before  json.RawMessage `json:"before,omitempty"`   // the record without its hash, and its long lists and texts cut; none for a thing that is new
	After   json.RawMessage `json:"after,omitempty"`    // likewise, as it will be; or the counts of a bulk change

	// Of an outcome; that of a repair has IDs and counts in After, too:
	Intent string `json:"intent,omitempty"` // ID of the intent
	Result string `json:"result,omitempty"` // "done", or why not

	Corrupt string `json:"corrupt,omitempty"` // what is wrong with an entry that cannot be read; then only ID and Time are set
}

// Order is the direction in which the stream is read.
type Order bool

// The two directions.
const (
	OldestFirst Order = false
	NewestFirst Order = true
)

// Stream is the record of changes: the capped Redis stream tg:v1:audit. It is safe for concurrent
// use.
type Stream struct {
	client redis.UniversalClient
	max    int64
}

// New returns a Stream that keeps about max entries: Redis drops the oldest in blocks of about a
// hundred. A max below 1 means DefaultEntries. An entry is bounded too, see maxSideBytes.
func New(c redis.UniversalClient, max int64) *Stream {
	if max < 1 {
		max = DefaultEntries
	}
	return &Stream{client: c, max: max}
}

// NewEntry returns an intent of who to do action on things of this team with these ids.
func NewEntry(who roles.Actor, action roles.Action, api, team string, ids ...string) Entry {
	return Entry{Who: who.Who(), Role: who.RoleName(), Address: who.Address, Action: action, API: api, Team: team, IDs: ids}
}

// Intent writes what is about to be done and returns the id that Outcome wants. On an error, which
// is an ErrNotAudited, the caller must not make the change. Who, Action and either side that is
// given must be in order, and neither side may have a field that names a secret, token, hash or
// digest.
func (a *Stream) Intent(ctx context.Context, e Entry) (id string, err error) {
	if err := e.intentProblem(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotAudited, err)
	}
	if id, err = a.add(ctx, e); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotAudited, err)
	}
	return id, nil
}

// Outcome writes how the change of the intent went: "done" or why not. It has two more seconds when
// ctx has ended, because the change is made by then. An error is an ErrOutcomeLost.
func (a *Stream) Outcome(ctx context.Context, intent, result string) error {
	return a.Conclude(ctx, Entry{Intent: intent, Result: result})
}

// Conclude is Outcome with more than a result.
func (a *Stream) Conclude(ctx context.Context, e Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeTime)
	defer cancel()
	e.Result = keys.Shorten(e.Result, maxResultBytes)
	if _, err := a.add(ctx, e); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrOutcomeLost, e.Intent, err)
	}
	return nil
}

// Do makes a change between its intent and its outcome. Errors: an ErrNotAudited means that change
// was not called; an ErrOutcomeLost, that the change was made and only its outcome is missing; any
// other is that of change, with a word about the outcome if that is missing too.
func (a *Stream) Do(ctx context.Context, e Entry, change func(context.Context) error) error {
	id, err := a.Intent(ctx, e)
	if err != nil {
		return err
	}
	err = change(ctx)
	lost := a.Outcome(ctx, id, ResultOf(err))
	switch {
	case lost == nil:
		return err
	case err == nil:
		return fmt.Errorf("keys: the change was made, but: %w", lost)
	}
	// Not an ErrOutcomeLost to errors.Is: that would say that the change was made.
	return fmt.Errorf("%w; besides: %v", err, lost)
}

// ResultOf is the outcome's text for what a change returned.
func ResultOf(err error) string {
	if err == nil {
		return "done"
	}
	// A client library may quote a key of the store, and a secret's one holds its digest.
	text, rest := err.Error(), err.Error()
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r != '_' && !strings.ContainsRune(keys.Base62, r) }) {
		if store.MemberIDProblem(word) == "" {
			rest = strings.ReplaceAll(rest, word, "")
		}
	}
	if !keys.CouldHoldSecret(rest) {
		return "error: " + text
	}
	return "error: the reason is not shown, it could hold a secret"
}

const addSource = `return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', ARGV[2], ARGV[3])`

func (a *Stream) add(ctx context.Context, e Entry) (id string, err error) {
	data, err := json.Marshal(storedEntry(e.fit()))
	if err != nil {
		return "", err
	}
	id, err = a.client.XAdd(ctx, &redis.XAddArgs{
		Stream: streamKey, MaxLen: a.max, Approx: true, Values: []any{entryField, data},
	}).Result()
	if store.IsFull(err) && (e.Action.TakesRights() || e.Intent != "") { // an outcome tells of what is done already
		id, err = redis.NewScript(store.AllowOOM+addSource).Run(ctx, a.client, []string{streamKey}, a.max, entryField, data).Text()
	}
	if err != nil {
		return "", readError(ctx, err)
	}
	return id, nil
}

// storedEntry is an Entry as the stream stores it: without what the stream itself says.
type storedEntry Entry

// MarshalJSON leaves out id and time.
func (r storedEntry) MarshalJSON() ([]byte, error) {
	type stored struct {
		Entry
		ID      string `json:"id,omitempty"`
		Time    string `json:"time,omitempty"`
		Corrupt string `json:"corrupt,omitempty"`
	}
	return json.Marshal(stored{Entry: Entry(r)})
}

func (e Entry) intentProblem() error {
	if e.Who == "" {
		return errors.New("it does not say who")
	}
	if e.Action == "" {
		return errors.New("it does not say what")
	}
	return errors.Join(sideProblem("before", e.Before), sideProblem("after", e.After))
}

// sideProblem is the last gate before a secret would stay in the stream for good: a caller that
// passes a whole stored record is refused.
func sideProblem(side string, data json.RawMessage) error {
	if len(data) == 0 {
		return nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("%s is not JSON", side)
	}
	if name := forbiddenName(v); name != "" {
		return fmt.Errorf("%s has a field %q", side, name)
	}
	return nil
}

func forbiddenName(v any) string {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '_' || r == '-' })
			if slices.ContainsFunc(words, namesSecret) {
				return name
			}
			if name := forbiddenName(value); name != "" {
				return name
			}
		}
	case []any:
		for _, value := range v {
			if name := forbiddenName(value); name != "" {
				return name
			}
		}
	}
	return ""
}

func namesSecret(word string) bool {
	return slices.Contains([]string{"secret", "token", "hash", "digest", "pepper"}, word)
}

// Read returns up to n entries (1 to 1000) after the cursor from, which is empty for the start and
// else what an earlier Read in the same order returned as next. next is empty at the end. An entry
// that cannot be read is there with Corrupt set. Errors: ErrCursor; any other means that the store
// did not answer.
func (a *Stream) Read(ctx context.Context, from string, n int, order Order) (entries []Entry, next string, err error) {
	n = min(max(n, 1), maxPage)
	start, end := "-", "+"
	if from != "" {
		if !isStreamID(from) {
			return nil, "", ErrCursor
		}
		if order == NewestFirst {
			end = "(" + from
		} else {
			start = "(" + from
		}
	}
	var found []redis.XMessage
	// One more than asked for tells whether there is a next page.
	if order == NewestFirst {
		found, err = a.client.XRevRangeN(ctx, streamKey, end, start, int64(n)+1).Result()
	} else {
		found, err = a.client.XRangeN(ctx, streamKey, start, end, int64(n)+1).Result()
	}
	if err != nil {
		return nil, "", readError(ctx, err)
	}
	if len(found) > n {
		found, next = found[:n], found[n-1].ID
	}
	for _, message := range found {
		entries = append(entries, decodeEntry(message))
	}
	return entries, next, nil
}

func readError(ctx context.Context, err error) error {
	if store.IsWrongType(err) {
		return errors.New("keys: " + streamKey + " is not a stream")
	}
	return store.ReadError(ctx, "", err)
}

func decodeEntry(message redis.XMessage) Entry {
	at := Entry{ID: message.ID}
	if ms, _, ok := strings.Cut(message.ID, "-"); ok {
		n, _ := strconv.ParseInt(ms, 10, 64)
		at.Time = time.UnixMilli(n).UTC()
	}
	text, ok := message.Values[entryField].(string)
	var e Entry
	switch {
	case !ok:
		at.Corrupt = "it has no field " + entryField
	case json.Unmarshal([]byte(text), &e) != nil:
		at.Corrupt = "it is not the JSON of an entry"
	case e.Intent == "" && (e.Who == "" || e.Action == ""), e.Intent != "" && e.Result == "":
		at.Corrupt = "it is neither an intent nor an outcome"
	default:
		e.ID, e.Time, e.Corrupt = at.ID, at.Time, ""
		return e
	}
	return at
}

func isStreamID(s string) bool {
	ms, seq, ok := strings.Cut(s, "-")
	number := func(s string) bool { _, err := strconv.ParseUint(s, 10, 64); return err == nil }
	return ok && number(ms) && number(seq)
}
