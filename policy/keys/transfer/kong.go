package transfer

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tollgate/policy/keys"
)

// longestTTL is what Kong takes, in seconds. Its own exports for data planes write the moment of expiry in the same
// field, as Unix seconds, which is more.
const longestTTL = 100_000_000

// readKong reads the keyauth_credentials of a declarative configuration, both those inside a consumer and those that
// name one. A consumer's username becomes the key's name and its custom_id the team, because those are what
// applications get in X-Consumer-Username and, next to it, as their own id of the consumer. Everything else is passed
// over.
func readKong(r io.Reader, o Options, yield func(keys.Record, error) bool) {
	roots, faults, err := readTrees(r)
	if err != nil {
		yield(keys.Record{}, broken(err))
		return
	}
	for _, f := range faults {
		if !yield(keys.Record{Line: f.line}, f) {
			return
		}
	}
	for _, root := range roots {
		consumers := root.field("consumers").items()
		for _, consumer := range consumers {
			for _, n := range consumer.field("keyauth_credentials").items() {
				if !yield(kongKey(n, consumer, o)) {
					return
				}
			}
		}
		for _, n := range root.field("keyauth_credentials").items() {
			consumer, err := findConsumer(consumers, n.field("consumer"))
			if err != nil {
				if !yield(keys.Record{Line: n.line}, err) {
					return
				}
			} else if !yield(kongKey(n, consumer, o)) {
				return
			}
		}
	}
}

// findConsumer follows a reference: a username or id, or a mapping with one of them.
func findConsumer(consumers []*node, ref *node) (*node, error) {
	names := []string{ref.string(), ref.field("id").string(), ref.field("username").string()}
	for _, consumer := range consumers {
		for _, field := range []string{"id", "username", "custom_id"} {
			for _, name := range names {
				if name != "" && consumer.field(field).string() == name {
					return consumer, nil
				}
			}
		}
	}
	return nil, errors.New("consumer: is not in the file")
}

func kongKey(n, consumer *node, o Options) (keys.Record, error) {
	key := n.field("key")
	switch {
	case key == nil:
		return keys.Record{Line: n.line}, errors.New("secret: the credential has no key; Kong would make one up")
	case key.kind != text:
		return keys.Record{Line: n.line}, errors.New("secret: the key must be text; put it in quotes")
	}
	f := keys.Fields{Secret: key.text, Team: consumer.field("custom_id").string()}
	for _, field := range []string{"username", "custom_id", "id"} {
		if f.Name == "" {
			f.Name = consumer.field(field).string()
		}
	}
	var tags []string
	for _, tag := range n.field("tags").items() {
		tags = append(tags, tag.string())
	}
	if len(tags) > 0 {
		f.Note = "Kong tags: " + strings.Join(tags, ", ")
	}
	created, err := seconds(n.field("created_at"))
	if err != nil {
		return keys.Record{Line: n.line}, fmt.Errorf("created_at: %w", err)
	}
	ttl, err := seconds(n.field("ttl"))
	if err != nil {
		return keys.Record{Line: n.line}, fmt.Errorf("ttl: %w", err)
	}
	if created > 0 {
		f.CreatedAt = unix(created)
	}
	switch {
	case ttl > longestTTL:
		f.ExpiresAt = unix(ttl)
	case ttl > 0 && created > 0:
		f.ExpiresAt = unix(created + ttl)
	case ttl > 0 && !o.AsOf.IsZero():
		f.ExpiresAt = unix(o.AsOf.Unix() + ttl)
	case ttl > 0:
		return keys.Record{Line: n.line}, errors.New("ttl: counts from a moment that the file does not say; say when it was written")
	}
	return record(n.line, &f)
}

// seconds reads a whole or broken number of seconds; nothing is 0.
func seconds(n *node) (int64, error) {
	if n == nil {
		return 0, nil
	}
	s, err := strconv.ParseFloat(n.text, 64)
	if n.kind != other || err != nil || !(s >= 0 && s < 1<<37) {
		return 0, errors.New("is not a number of seconds")
	}
	return int64(s), nil
}

func unix(s int64) string { return time.Unix(s, 0).UTC().Format(time.RFC3339) }
