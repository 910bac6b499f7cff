package transfer

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/strictyaml"
)

// longestTTL is what Kong takes, in seconds. Its own exports for data planes write the moment of
// expiry in the same field, as Unix seconds, which is more.
const longestTTL = 100_000_000

// kong is a declarative configuration, of all documents of a file.
type kong struct {
	o         Options
	consumers []*consumer
	byName    map[string]*consumer // by id, username and custom_id; nil where two consumers have it
	groups    map[string]*node     // consumer groups by id and name
	shared    map[string]*node     // decK's _plugin_configs
	plugins   []plugin             // of groups, and for all
	keys      []credential
	ignored   []keyfile.Record // Line alone counts
	reasons   []error          // of ignored
}

type consumer struct {
	node    *node
	root    *node
	acls    []*node  // each with a group
	groups  []*node  // consumer groups, or names of them
	plugins []plugin // its own
	keys    int      // how many credentials
	judged  bool
	rights  restriction
	err     error // why no key of the consumer can be taken
}

type credential struct {
	node *node
	of   *consumer
}

// readKong reads the keyauth_credentials of a declarative configuration, both those inside a
// consumer and those that name one. A consumer's username becomes the key's name and its custom_id
// the team, because those are what applications get in X-Consumer-Username and, next to it, as
// their own id of the consumer. What narrows the consumer becomes the key's own restrictions; where
// that cannot be, the key is refused.
func readKong(r io.Reader, o Options, yield func(keyfile.Record, error) bool) {
	roots, faults, err := readTrees(r)
	k := &kong{o: o, byName: map[string]*consumer{}, groups: map[string]*node{}, shared: map[string]*node{}}
	for _, gather := range []func(*node) error{k.roots, k.references, k.pluginsOf} {
		for _, root := range roots {
			if err == nil {
				err = gather(root)
			}
		}
	}
	for _, f := range faults {
		if !yield(keyfile.Record{Line: f.line}, f) {
			return
		}
	}
	if err != nil {
		var f *fault
		if errors.As(err, &f) {
			yield(keyfile.Record{Line: f.line}, broken(fmt.Errorf("line %d: %w", f.line, f)))
		} else {
			yield(keyfile.Record{}, broken(err))
		}
		return
	}
	if len(faults) > 0 { // what is missing could narrow any key
		for _, c := range k.consumers {
			c.judged, c.err = true, fmt.Errorf("a part of the file cannot be read (line %d), and could narrow the key", faults[0].line)
		}
	}
	for i := range k.ignored {
		if !yield(k.ignored[i], k.reasons[i]) {
			return
		}
	}
	for _, c := range k.keys {
		if !yield(k.key(c)) {
			return
		}
	}
}

func (k *kong) ignore(n *node, format string, args ...any) {
	k.ignored = append(k.ignored, keyfile.Record{Line: n.Line})
	k.reasons = append(k.reasons, &keyfile.IgnoredError{What: fmt.Sprintf(format, args...)})
}

// roots takes what others refer to.
func (k *kong) roots(root *node) error {
	if root.Field("data") != nil && root.Field("consumers") == nil {
		return &fault{root.Line, "this is a page of Kong's Admin API, which does not say what narrows its keys: " +
			"use a declarative configuration (deck gateway dump, kong config db_export)"}
	}
	consumers, err := listOf(root, "consumers")
	if err != nil {
		return err
	}
	for _, n := range consumers {
		c := &consumer{node: n, root: root}
		k.consumers = append(k.consumers, c)
		for _, field := range []string{"id", "username", "custom_id"} {
			k.name(scalar(n.Field(field)), c)
		}
	}
	groups, err := listOf(root, "consumer_groups")
	for _, g := range groups {
		for _, field := range []string{"id", "name"} {
			if name := scalar(g.Field(field)); name != "" {
				k.groups[name] = g
			}
		}
	}
	configs := root.Field("_plugin_configs")
	for i := range configs.Pairs() {
		k.shared[configs.Names[i]] = configs.Values[i]
	}
	return err
}

func (k *kong) name(name string, c *consumer) {
	if other, known := k.byName[name]; known && other != c {
		c = nil
	}
	if name != "" {
		k.byName[name] = c
	}
}

// references takes what belongs to consumers, inside of them or with their name.
func (k *kong) references(root *node) error {
	var errs []error
	each := func(n *node, name string, take func(*node)) {
		all, err := listOf(n, name)
		errs = append(errs, err)
		for _, one := range all {
			take(one)
		}
	}
	for _, c := range k.consumers {
		if c.root != root {
			continue
		}
		each(c.node, "keyauth_credentials", func(n *node) { k.credential(n, c) })
		each(c.node, "acls", func(n *node) { c.acls = append(c.acls, n) })
		each(c.node, "groups", func(n *node) { c.groups = append(c.groups, n) })
	}
	each(root, "keyauth_credentials", func(n *node) {
		c, _ := k.consumer(n.Field("consumer"))
		k.credential(n, c)
	})
	each(root, "acls", func(n *node) {
		errs = append(errs, k.whose(n, func(c *consumer) { c.acls = append(c.acls, n) }))
	})
	each(root, "consumer_group_consumers", func(n *node) {
		errs = append(errs, k.whose(n, func(c *consumer) { c.groups = append(c.groups, n.Field("consumer_group")) }))
	})
	each(root, "consumer_groups", func(g *node) {
		each(g, "consumers", func(n *node) {
			if c, err := k.consumer(n); err != nil {
				errs = append(errs, &fault{n.Line, err.Error()})
			} else {
				c.groups = append(c.groups, g)
			}
		})
	})
	k.ignoreOthers(root)
	return errors.Join(errs...)
}

func (k *kong) credential(n *node, c *consumer) {
	k.keys = append(k.keys, credential{n, c})
	if c != nil {
		c.keys++
	}
}

// whose finds the consumer that a part of the file is about. One that the file does not have has no
// key in it either, but a reference that cannot be read could be to any.
func (k *kong) whose(n *node, take func(*consumer)) error {
	c, err := k.consumer(n.Field("consumer"))
	switch {
	case err == nil:
		take(c)
	case errors.Is(err, errNoConsumer):
		k.ignore(n, "its consumer is not in the file")
	default:
		return &fault{n.Line, err.Error()}
	}
	return nil
}

var errNoConsumer = errors.New("consumer: is not in the file")

// consumer follows a reference: a username or id, or a mapping with one of them.
func (k *kong) consumer(ref *node) (*consumer, error) {
	for _, name := range []string{scalar(ref), scalar(ref.Field("id")), scalar(ref.Field("username"))} {
		if name == "" {
			continue
		}
		c, known := k.byName[name]
		switch {
		case known && c == nil:
			return nil, errors.New("consumer: two of the file have this name")
		case !known:
			return nil, errNoConsumer
		}
		return c, nil
	}
	if ref == nil {
		return nil, errNoConsumer
	}
	return nil, errors.New("consumer: cannot be read, and could be any")
}

// ignoreOthers counts what is no key and narrows none.
func (k *kong) ignoreOthers(root *node) {
	read := []string{"consumers", "keyauth_credentials", "acls", "plugins", "consumer_groups", "consumer_group_consumers", "consumer_group_plugins"}
	for i, name := range root.Names {
		if len(root.Values[i].Items()) > 0 && !slices.Contains(read, name) {
			k.ignore(root.Values[i], "%s: %d not read", shown(name), len(root.Values[i].Items()))
		}
	}
	for _, c := range root.Field("consumers").Items() {
		for _, name := range otherCredentials() {
			if list := c.Field(name); len(list.Items()) > 0 {
				k.ignore(list, "%s: %d, which are no API keys", name, len(list.Items()))
			}
		}
	}
}

func otherCredentials() []string {
	return []string{"basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "oauth2_credentials", "mtls_auth_credentials", "keyauth_enc_credentials"}
}

// shown keeps a secret whose colon was forgotten out of a message.
func shown(name string) string {
	if len(name) <= 40 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_-") == "" {
		return name
	}
	return "(a name not shown)"
}

// key reads one credential.
func (k *kong) key(c credential) (keyfile.Record, error) {
	n, at := c.node, keyfile.Record{Line: c.node.Line}
	if c.of == nil {
		_, err := k.consumer(n.Field("consumer"))
		return at, err
	}
	if odd := unknownField(n, "id", "key", "ttl", "tags", "created_at", "updated_at", "consumer", "enabled", "_comment", "_ignore"); odd != "" {
		return at, fmt.Errorf("the credential has a field %s, which is not known and could narrow it", shown(odd))
	}
	f, err := k.fields(n, c.of)
	if err != nil {
		return at, err
	}
	rights, err := k.rights(c.of)
	if err != nil {
		return at, err
	}
	f.Scopes, f.IPs, f.Limits = rights.scopes, rights.ips, rights.limits
	if rights.together && c.of.keys > 1 {
		f.LimitID = k.limitID(c.of)
	}
	r, err := record(n.Line, &f)
	r.Narrowed = err == nil && rights.any()
	return r, err
}

// fields reads what the credential itself says.
func (k *kong) fields(n *node, of *consumer) (keyfile.Fields, error) {
	key := n.Field("key")
	switch {
	case key == nil:
		return keyfile.Fields{}, errors.New("secret: the credential has no key; Kong would make one up")
	case key.String() == "":
		return keyfile.Fields{}, errors.New("secret: the key must be text; put it in quotes")
	}
	f := keyfile.Fields{Secret: key.Text, Team: scalar(of.node.Field("custom_id"))}
	for _, field := range []string{"username", "custom_id", "id"} {
		if f.Name == "" {
			f.Name = scalar(of.node.Field(field))
		}
	}
	if on := n.Field("enabled"); on != nil && scalar(on) != "true" {
		f.Status = string(keys.Inactive)
	}
	var tags []string
	for _, tag := range n.Field("tags").Items() {
		tags = append(tags, scalar(tag))
	}
	if len(tags) > 0 {
		f.Note = "Kong tags: " + strings.Join(tags, ", ")
	}
	return f, k.times(n, &f)
}

func (k *kong) times(n *node, f *keyfile.Fields) error {
	created, err := seconds(n.Field("created_at"))
	if err != nil {
		return fmt.Errorf("created_at: %w", err)
	}
	ttl, err := seconds(n.Field("ttl"))
	if err != nil {
		return fmt.Errorf("ttl: %w", err)
	}
	if created > 0 {
		f.CreatedAt = unix(created)
	}
	switch {
	case ttl > longestTTL:
		f.ExpiresAt = unix(ttl)
	case ttl > 0 && created > 0:
		f.ExpiresAt = unix(created + ttl)
	case ttl > 0 && !k.o.AsOf.IsZero():
		f.ExpiresAt = unix(k.o.AsOf.Unix() + ttl)
	case ttl > 0:
		return errors.New("ttl: counts from a moment that the file does not say; say when it was written")
	}
	return nil
}

// seconds reads a whole or broken number of seconds; nothing is 0. What begins with 0 is octal to
// Kong's own reader.
func seconds(n *node) (int64, error) {
	if n == nil {
		return 0, nil
	}
	s, err := strconv.ParseFloat(n.Text, 64)
	octal := len(n.Text) > 1 && n.Text[0] == '0' && n.Text[1] != '.'
	if n.Kind != strictyaml.Other || octal || err != nil || !(s >= 0 && s < 1<<37) {
		return 0, errors.New("is not a number of seconds")
	}
	return int64(s), nil
}

func unix(s int64) string { return time.Unix(s, 0).UTC().Format(time.RFC3339) }
