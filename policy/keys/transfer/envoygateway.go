package transfer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tollgate/policy/keys/keyfile"
)

// readClients reads Secrets in which each entry is the id of a client and its key. Where the source
// has SecurityPolicies with apiKeyAuth, only the Secrets that they refer to are read, in that
// order, and of two clients of one policy with the same id the first counts, as in Envoy Gateway.
func readClients(objects []*node, yield func(keyfile.Record, error) bool) {
	secrets := map[reference]*node{}
	var order []reference
	for _, n := range objects {
		namespace, name := secretName(n)
		ref := reference{namespace, name}
		var ok bool
		switch {
		case isSecret(n) && !isOpaque(n):
			ok = passOver(n, "of another type", yield)
		case isSecret(n) && secrets[ref] != nil:
			ok = yield(keyfile.Record{Line: n.Line}, errors.New("the Secret is there twice; this one is left out"))
		case isSecret(n):
			secrets[ref], ok = n, true
			order = append(order, ref)
		case n.Field("kind").String() == "SecurityPolicy":
			ok = true
		default:
			ok = passOver(n, "is no Secret", yield)
		}
		if !ok {
			return
		}
	}
	groups := credentialRefs(objects)
	if len(groups) == 0 {
		for _, ref := range order { // not known to be of one policy
			groups = append(groups, refs{names: []reference{ref}})
		}
	}
	c := newClients(secrets, groups, yield)
	for _, group := range groups {
		if !c.group(group) {
			return
		}
	}
	for _, ref := range order {
		if !c.done[ref] && !passOver(secrets[ref], "that no SecurityPolicy refers to", yield) {
			return
		}
	}
}

// refs is what a SecurityPolicy with apiKeyAuth says.
type refs struct {
	line   int
	names  []reference
	target string // what the policy is for, as text
	reason string // why its clients cannot be taken, "" if they can
}

func credentialRefs(objects []*node) []refs {
	var out []refs
	for _, n := range objects {
		list := n.Field("spec", "apiKeyAuth", "credentialRefs")
		if n.Field("kind").String() != "SecurityPolicy" || list == nil {
			continue
		}
		namespace, _ := secretName(n)
		group := refs{line: list.Line, target: targets(n, namespace)}
		for _, field := range []string{"authorization", "basicAuth", "extAuth", "jwt", "oidc"} {
			if v := n.Field("spec", field); v != nil && group.reason == "" {
				group.reason = fmt.Sprintf("%s of the SecurityPolicy on line %d narrows the key; if the policy does the same, take it out of the file", field, v.Line)
			}
		}
		for _, ref := range list.Items() {
			r := reference{scalar(ref.Field("namespace")), scalar(ref.Field("name"))}
			if r.namespace == "" {
				r.namespace = namespace
			}
			group.names = append(group.names, r)
		}
		out = append(out, group)
	}
	return out
}

// targets is a text that two policies have in common if they are for the same.
func targets(n *node, namespace string) string {
	all := slices.Clone(n.Field("spec", "targetRefs").Items())
	if one := n.Field("spec", "targetRef"); one != nil {
		all = append(all, one)
	}
	var texts []string
	for _, ref := range append(all, n.Field("spec", "targetSelectors").Items()...) {
		texts = append(texts, namespace+"/"+flat(ref))
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// flat writes a small object as one text.
func flat(n *node) string {
	if n == nil || len(n.Values) == 0 {
		return scalar(n)
	}
	var parts []string
	for i, v := range n.Values {
		name := ""
		if i < len(n.Names) {
			name = n.Names[i] + "="
		}
		parts = append(parts, name+flat(v))
	}
	slices.Sort(parts)
	return "(" + strings.Join(parts, ",") + ")"
}

type clients struct {
	secrets map[reference]*node
	yield   func(keyfile.Record, error) bool
	done    map[reference]bool
	targets []refs                        // one policy of each target
	held    map[reference]map[string]bool // the targets that a Secret is for
	reasons map[reference]string          // why no client of a Secret can be taken
}

func newClients(secrets map[reference]*node, groups []refs, yield func(keyfile.Record, error) bool) *clients {
	c := &clients{
		secrets: secrets, yield: yield, done: map[reference]bool{}, held: map[reference]map[string]bool{}, reasons: map[reference]string{},
	}
	seen := map[string]bool{}
	for _, g := range groups {
		if !seen[g.target] {
			seen[g.target] = true
			c.targets = append(c.targets, g)
		}
		for _, ref := range g.names {
			if c.held[ref] == nil {
				c.held[ref] = map[string]bool{}
			}
			c.held[ref][g.target] = true
			if c.reasons[ref] == "" {
				c.reasons[ref] = g.reason
			}
		}
	}
	return c
}

// group reads the Secrets of one policy.
func (c *clients) group(g refs) bool {
	first := map[string]int{} // the line on which a client's id was first seen
	for _, ref := range g.names {
		n := c.secrets[ref]
		if n == nil && !c.yield(keyfile.Record{Line: g.line}, fmt.Errorf("the SecurityPolicy refers to Secret %s, which is not in the source", word(ref.name))) {
			return false
		}
		if n != nil && !c.done[ref] && !c.secret(n, first, c.narrowed(ref)) {
			return false
		}
		c.done[ref] = true
	}
	return true
}

// narrowed says why no client of a Secret can be taken: a policy that refers to it narrows it, or
// it is for some of the routes only.
func (c *clients) narrowed(ref reference) error {
	if why := c.reasons[ref]; why != "" {
		return errors.New(why)
	}
	for _, g := range c.targets {
		if !c.held[ref][g.target] {
			return fmt.Errorf("the SecurityPolicy on line %d is for something that the client is kept from; import the Secrets of each policy by themselves", g.line)
		}
	}
	return nil
}

// secret reads the entries of one Secret.
func (c *clients) secret(n *node, first map[string]int, narrowed error) bool {
	seen := map[string]bool{}
	for _, part := range []string{"data", "stringData"} {
		list := n.Field(part)
		for i := range list.Pairs() {
			id, line := list.Names[i], list.Values[i].Line
			if seen[id] {
				continue
			}
			seen[id] = true
			r, err := clientKey(n, id, line)
			if at, ok := first[id]; ok {
				r, err = keyfile.Record{Line: line}, fmt.Errorf("the policy has a client of this id on line %d already, and the first counts", at)
			} else if first[id] = line; err == nil {
				err = narrowed
			}
			if !c.yield(r, err) {
				return false
			}
		}
	}
	return true
}

func clientKey(n *node, id string, line int) (keyfile.Record, error) {
	at := keyfile.Record{Line: line}
	if n.Field("metadata", "deletionTimestamp") != nil {
		return at, errors.New("the Secret is being deleted")
	}
	secret, err := entry(n, id)
	if err != nil {
		return at, err
	}
	f := common(n)
	f.Name, f.Secret = id, secret
	return record(line, &f)
}
