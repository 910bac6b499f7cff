package transfer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tollgate/policy/keys/keyfile"
)

// authorinoEntry is the entry of a Secret's data in which Authorino looks for the key by default.
const authorinoEntry = "api_key"

// Kuadrant's annotations for whom a key belongs to, and which plan it is on.
const (
	kuadrantUser = "secret.kuadrant.io/user-id"
	kuadrantPlan = "secret.kuadrant.io/plan-id"
)

// readAuthorino reads Secrets of any type that have an entry api_key, or that Authorino's labels
// name. Where the source has AuthConfigs or AuthPolicies, one of them must select the Secret.
func readAuthorino(objects []*node, o Options, yield func(keyfile.Record, error) bool) {
	var selectors []selector
	for _, n := range objects {
		switch n.Field("kind").String() {
		case "AuthConfig", "AuthPolicy":
			selectors = append(selectors, selectorsOf(n)...)
		}
	}
	seen := map[reference]bool{}
	for _, n := range objects {
		switch {
		case !isSecret(n) && n.Field("kind").String() != "AuthConfig" && n.Field("kind").String() != "AuthPolicy":
			if !passOver(n, "is no Secret", yield) {
				return
			}
		case !isSecret(n):
		case !authorinoSecret(n):
			if !passOver(n, "of another type, without an entry "+authorinoEntry, yield) {
				return
			}
		default:
			r, err := authorinoKey(n, o)
			namespace, name := secretName(n)
			ref := reference{namespace, name}
			switch {
			case seen[ref]:
				err = errors.New("the Secret is there twice; this one is left out")
			case err == nil:
				err = selected(n, selectors)
			}
			seen[ref] = true
			if !yield(r, err) {
				return
			}
		}
	}
}

// authorinoSecret reports whether a Secret could be a key: Authorino goes by labels and entries,
// not by the type.
func authorinoSecret(n *node) bool {
	return isOpaque(n) || n.Field("data", authorinoEntry) != nil || n.Field("stringData", authorinoEntry) != nil ||
		n.Field("metadata", "labels", "authorino.kuadrant.io/managed-by") != nil
}

// authorinoKey reads one Secret: the key in the entry api_key, the Secret's name as the key's, and
// what Options.Labels says from annotations and labels.
func authorinoKey(n *node, o Options) (keyfile.Record, error) {
	at := keyfile.Record{Line: n.Line}
	secret, err := entry(n, authorinoEntry)
	if err == nil && secret == "" {
		err = fmt.Errorf("secret: the Secret has no entry %s", authorinoEntry)
	}
	if err == nil && n.Field("metadata", "deletionTimestamp") != nil {
		err = errors.New("the Secret is being deleted")
	}
	if err != nil {
		return at, err
	}
	f := common(n)
	f.Secret = secret
	_, f.Name = secretName(n)
	labels := map[string]string{"team": kuadrantUser, "plan": kuadrantPlan}
	for field, label := range o.Labels {
		labels[field] = label
	}
	if err := unknownMeaning(n, labels); err != nil {
		return at, err
	}
	for _, field := range slices.Sorted(maps.Keys(labels)) {
		value, err := described(n, labels[field])
		if err != nil {
			return at, err
		}
		if value == "" {
			continue
		}
		switch field {
		case "team", "plan", "environment", "scopes", "name", "note":
			if err := set(&f, field, value); err != nil {
				return at, err
			}
		default:
			return at, fmt.Errorf("labels cannot give %q", field)
		}
	}
	return record(n.Line, &f)
}

// described returns an annotation, or else a label.
func described(n *node, name string) (string, error) {
	for _, part := range []string{"annotations", "labels"} {
		v := n.Field("metadata", part, name)
		if v != nil && v.String() == "" && (scalar(v) != "" || len(v.Values) > 0) {
			return "", fmt.Errorf("%s: %s must be text; put it in quotes", part, word(name))
		}
		if v.String() != "" {
			return v.Text, nil
		}
	}
	return "", nil
}

// unknownMeaning refuses a word of Kuadrant's on a Secret that nobody has said the meaning of:
// policies go by such words, as with the groups of a user.
func unknownMeaning(n *node, labels map[string]string) error {
	known := append(slices.Collect(maps.Values(labels)), kuadrantUser, kuadrantPlan,
		"authorino.kuadrant.io/managed-by", "kuadrant.io/apikeys-by", "kuadrant.io/auth-secret")
	for _, part := range []string{"annotations", "labels"} {
		list := n.Field("metadata", part)
		for i := range list.Pairs() {
			name := list.Names[i]
			domain, _, _ := strings.Cut(name, "/")
			if (domain == "kuadrant.io" || strings.HasSuffix(domain, ".kuadrant.io")) && !slices.Contains(known, name) {
				return fmt.Errorf("%s: %q on line %d could narrow the key: say with --label FIELD=%s what it gives", part, word(name), list.Values[i].Line, word(name))
			}
		}
	}
	return nil
}

// selector says which Secrets are keys for one AuthConfig.
type selector struct {
	node      *node // matchLabels and matchExpressions
	namespace string
	reason    string // why a key that it selects cannot be taken, "" if it can
}

// selectorsOf finds the selectors of API keys, wherever the version of an AuthConfig has them.
func selectorsOf(config *node) []selector {
	namespace, _ := secretName(config)
	reason := ""
	if rules := find(config, "authorization"); rules != nil {
		reason = fmt.Sprintf("the rules of authorization on line %d narrow the key; if the policy does the same, take them out of the file", rules.Line)
	}
	var out []selector
	each(config, "apiKey", func(n *node) {
		s := selector{node: n.Field("selector"), namespace: namespace, reason: reason}
		if scalar(n.Field("allNamespaces")) == "true" {
			s.namespace = ""
		}
		if entries := n.Field("keySelectors"); entries != nil && reason == "" {
			s.reason = fmt.Sprintf("keySelectors on line %d are not read", entries.Line)
		}
		out = append(out, s)
	})
	return out
}

// each calls take for every field of this name that is not empty, at any depth.
func each(n *node, name string, take func(*node)) {
	for i := range n.Pairs() {
		if n.Names[i] == name && len(n.Values[i].Values) > 0 {
			take(n.Values[i])
		}
	}
	for _, v := range n.Values {
		each(v, name, take)
	}
}

func find(n *node, name string) (found *node) {
	each(n, name, func(n *node) { found = n })
	return found
}

// selected refuses a Secret that no AuthConfig of the source selects, or that one selects which
// narrows it.
func selected(n *node, selectors []selector) error {
	namespace, _ := secretName(n)
	found := len(selectors) == 0
	for _, s := range selectors {
		if s.namespace != "" && namespace != "" && s.namespace != namespace || !s.matches(n.Field("metadata", "labels")) {
			continue
		}
		if s.reason != "" {
			return errors.New(s.reason)
		}
		found = true
	}
	if !found {
		return errors.New("no AuthConfig of the file selects the Secret")
	}
	return nil
}

func (s *selector) matches(labels *node) bool {
	wanted := s.node.Field("matchLabels")
	for i := range wanted.Pairs() {
		if v := labels.Field(wanted.Names[i]); v == nil || scalar(v) != scalar(wanted.Values[i]) {
			return false
		}
	}
	for _, e := range s.node.Field("matchExpressions").Items() {
		v := labels.Field(scalar(e.Field("key")))
		in := v != nil && slices.ContainsFunc(e.Field("values").Items(), func(n *node) bool { return scalar(n) == scalar(v) })
		fits := map[string]bool{"In": in, "NotIn": !in, "Exists": v != nil, "DoesNotExist": v == nil}
		if !fits[scalar(e.Field("operator"))] {
			return false
		}
	}
	return true
}
