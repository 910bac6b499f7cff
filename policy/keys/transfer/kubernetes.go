package transfer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/strictyaml"
)

// readSecrets reads Secrets from a List or from several documents. What narrows their keys
// elsewhere refuses them.
func readSecrets(r io.Reader, f Format, o Options, yield func(keyfile.Record, error) bool) {
	roots, faults, err := readTrees(r)
	if err != nil {
		yield(keyfile.Record{}, broken(err))
		return
	}
	for _, f := range faults {
		if !yield(keyfile.Record{Line: f.line}, f) {
			return
		}
	}
	objects, part := flatten(roots)
	switch {
	case part != nil:
		yield(keyfile.Record{Line: part.line}, broken(fmt.Errorf("line %d: %w", part.line, part)))
	case f == EnvoyGateway:
		readClients(objects, yield)
	default:
		readAuthorino(objects, o, yield)
	}
}

// flatten takes Lists apart. The items of a SecretList need not say what they are.
func flatten(roots []*node) (out []*node, bad *fault) {
	for _, root := range roots {
		of := root.Field("kind").String()
		if of != "List" && of != "SecretList" {
			out = append(out, root)
			continue
		}
		if scalar(root.Field("metadata", "continue")) != "" {
			return nil, &fault{root.Line, "the list is only a part: its metadata says continue"}
		}
		for _, n := range root.Field("items").Items() {
			if of == "SecretList" && n.Kind == strictyaml.Mapping && n.Field("kind") == nil {
				secret := *n
				secret.Names = append(slices.Clip(n.Names), "kind")
				secret.Values = append(slices.Clip(n.Values), &node{Kind: strictyaml.Text, Text: "Secret"})
				n = &secret
			}
			out = append(out, n)
		}
	}
	return out, nil
}

func isSecret(n *node) bool { return n.Field("kind").String() == "Secret" }

func isOpaque(n *node) bool {
	of := scalar(n.Field("type"))
	return of == "" || of == "Opaque"
}

// passOver counts an object that is no key.
func passOver(n *node, why string, yield func(keyfile.Record, error) bool) bool {
	what := n.Field("kind").String()
	if what == "" || strings.Trim(what, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || len(what) > 40 {
		what = "an object"
	}
	return yield(keyfile.Record{Line: n.Line}, &keyfile.IgnoredError{What: strings.TrimSpace(what + " " + why)})
}

func secretName(n *node) (namespace, name string) {
	return n.Field("metadata", "namespace").String(), n.Field("metadata", "name").String()
}

// common is what both layouts take from a Secret's own description.
func common(n *node) keyfile.Fields {
	namespace, name := secretName(n)
	if namespace != "" {
		name = namespace + "/" + name
	}
	return keyfile.Fields{Note: "Secret " + name, CreatedAt: n.Field("metadata", "creationTimestamp").String()}
}

// entry returns one value of a Secret. stringData wins over data, as in Kubernetes.
func entry(n *node, name string) (string, error) {
	if v := n.Field("stringData", name); v != nil {
		if v.Kind != strictyaml.Text {
			return "", errors.New("secret: must be text; put it in quotes")
		}
		return v.Text, nil
	}
	v := n.Field("data", name)
	if v == nil {
		return "", nil
	}
	plain, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(v.String()), ""))
	if err != nil || v.Kind != strictyaml.Text {
		return "", errors.New("secret: is not base64")
	}
	return string(plain), nil
}

// reference names a Secret.
type reference struct{ namespace, name string }
