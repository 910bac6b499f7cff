package transfer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"tollgate/policy/keys"
)

// authorinoEntry is the entry of a Secret's data in which Authorino looks for the key by default.
const authorinoEntry = "api_key"

// Kuadrant's annotations for whom a key belongs to, and which plan it is on.
const (
	kuadrantUser = "secret.kuadrant.io/user-id"
	kuadrantPlan = "secret.kuadrant.io/plan-id"
)

// readSecrets reads Secrets from a List or from several documents. Everything else in them is passed over, Secrets of
// another type than Opaque too.
func readSecrets(r io.Reader, f Format, o Options, yield func(keys.Record, error) bool) {
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
	var objects []*node
	for _, root := range roots {
		objects = append(objects, flatten(root)...)
	}
	if f == EnvoyGateway {
		readClients(objects, yield)
		return
	}
	for _, n := range objects {
		if isSecret(n) && !yield(authorinoKey(n, o)) {
			return
		}
	}
}

// flatten takes Lists apart. The items of a SecretList need not say what they are.
func flatten(root *node) []*node {
	of := root.field("kind").string()
	if of != "List" && of != "SecretList" {
		return []*node{root}
	}
	var out []*node
	for _, n := range root.field("items").items() {
		if of == "SecretList" && n.kind == mapping && n.field("kind") == nil {
			n.names, n.values = append(n.names, "kind"), append(n.values, &node{kind: text, text: "Secret"})
		}
		out = append(out, n)
	}
	return out
}

func isSecret(n *node) bool {
	of := n.field("type").string()
	return n.field("kind").string() == "Secret" && (of == "" || of == "Opaque")
}

func secretName(n *node) (namespace, name string) {
	return n.field("metadata", "namespace").string(), n.field("metadata", "name").string()
}

// common is what both layouts take from a Secret's own description.
func common(n *node) keys.Fields {
	namespace, name := secretName(n)
	if namespace != "" {
		name = namespace + "/" + name
	}
	return keys.Fields{Note: "Secret " + name, CreatedAt: n.field("metadata", "creationTimestamp").string()}
}

// entry returns one value of a Secret. stringData wins over data, as in Kubernetes.
func entry(n *node, name string) (string, error) {
	if v := n.field("stringData", name); v != nil {
		if v.kind != text {
			return "", errors.New("secret: must be text; put it in quotes")
		}
		return v.text, nil
	}
	v := n.field("data", name)
	if v == nil {
		return "", nil
	}
	plain, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(v.string()), ""))
	if err != nil || v.kind != text {
		return "", errors.New("secret: is not base64")
	}
	return string(plain), nil
}

// authorinoKey reads one Secret: the key in the entry api_key, the Secret's name as the key's, and what Options.Labels
// says from annotations and labels.
func authorinoKey(n *node, o Options) (keys.Record, error) {
	secret, err := entry(n, authorinoEntry)
	if err == nil && secret == "" {
		err = fmt.Errorf("secret: the Secret has no entry %s", authorinoEntry)
	}
	if err != nil {
		return keys.Record{Line: n.line}, err
	}
	f := common(n)
	f.Secret = secret
	_, f.Name = secretName(n)
	labels := map[string]string{"team": kuadrantUser, "plan": kuadrantPlan}
	for field, label := range o.Labels {
		labels[field] = label
	}
	for field, label := range labels {
		value := n.field("metadata", "annotations", label).string()
		if value == "" {
			value = n.field("metadata", "labels", label).string()
		}
		if value == "" {
			continue
		}
		switch field {
		case "team", "plan", "environment", "scopes", "name", "note":
			if err := set(&f, field, value); err != nil {
				return keys.Record{Line: n.line}, err
			}
		default:
			return keys.Record{Line: n.line}, fmt.Errorf("labels cannot give %q", field)
		}
	}
	return record(n.line, &f)
}

// reference names a Secret.
type reference struct{ namespace, name string }

// readClients reads Secrets in which each entry is the id of a client and its key. Where the source has
// SecurityPolicies with apiKeyAuth, only the Secrets that they refer to are read, in that order, and of two clients
// of one policy with the same id the first counts, as in Envoy Gateway.
func readClients(objects []*node, yield func(keys.Record, error) bool) {
	secrets := map[reference]*node{}
	var order []reference
	for _, n := range objects {
		if !isSecret(n) {
			continue
		}
		namespace, name := secretName(n)
		ref := reference{namespace, name}
		if secrets[ref] != nil {
			if !yield(keys.Record{Line: n.line}, errors.New("the Secret is there twice; this one is left out")) {
				return
			}
			continue
		}
		secrets[ref] = n
		order = append(order, ref)
	}
	groups := credentialRefs(objects)
	if len(groups) == 0 {
		for _, ref := range order { // not known to be of one policy
			groups = append(groups, refs{names: []reference{ref}})
		}
	}
	done := map[reference]bool{}
	for _, group := range groups {
		first := map[string]int{}
		for _, ref := range group.names {
			n := secrets[ref]
			if n == nil && !yield(keys.Record{Line: group.line}, fmt.Errorf("the SecurityPolicy refers to Secret %s, which is not in the source", ref.name)) {
				return
			}
			if n != nil && !done[ref] && !clients(n, first, yield) {
				return
			}
			done[ref] = true
		}
	}
}

type refs struct {
	line  int
	names []reference
}

func credentialRefs(objects []*node) []refs {
	var out []refs
	for _, n := range objects {
		list := n.field("spec", "apiKeyAuth", "credentialRefs")
		if n.field("kind").string() != "SecurityPolicy" || list == nil {
			continue
		}
		namespace, _ := secretName(n)
		group := refs{line: list.line}
		for _, ref := range list.items() {
			r := reference{ref.field("namespace").string(), ref.field("name").string()}
			if r.namespace == "" {
				r.namespace = namespace
			}
			group.names = append(group.names, r)
		}
		out = append(out, group)
	}
	return out
}

// clients reads the entries of one Secret. first says on which line a client's id was first seen.
func clients(n *node, first map[string]int, yield func(keys.Record, error) bool) bool {
	seen := map[string]bool{}
	for _, part := range []string{"data", "stringData"} {
		list := n.field(part)
		for i := range list.pairs() {
			id, line := list.names[i], list.values[i].line
			if seen[id] {
				continue
			}
			seen[id] = true
			if at, ok := first[id]; ok {
				if !yield(keys.Record{Line: line}, fmt.Errorf("the policy has a client of this id on line %d already, and the first counts", at)) {
					return false
				}
				continue
			}
			first[id] = line
			if !yield(clientKey(n, id, line)) {
				return false
			}
		}
	}
	return true
}

func clientKey(n *node, id string, line int) (keys.Record, error) {
	secret, err := entry(n, id)
	if err != nil {
		return keys.Record{Line: line}, err
	}
	f := common(n)
	f.Name, f.Secret = id, secret
	return record(line, &f)
}
