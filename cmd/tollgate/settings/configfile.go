package settings

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
	"github.com/spf13/pflag"

	"tollgate/policy/keys/smallfile"
	"tollgate/policy/keys/strictyaml"
)

// maxConfigDepth is what a mapping of scalars needs, and some more for a clear
// message.
const maxConfigDepth = 16

// ReadConfig reads a config file: a YAML mapping from names of flags to values of
// their types. What it does not know or cannot read is an error
// "file:line:col: what", all of them joined.
func ReadConfig(file string, flags *pflag.FlagSet) (map[string]any, error) {
	data, err := smallfile.Read(file, maxSmall)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	parsed, bad := strictyaml.Parse(string(data), 1, strictyaml.Bounds{Depth: maxConfigDepth})
	if bad != nil {
		return nil, fmt.Errorf("%s:%d:%d: %w", file, bad.Line, bad.Column, bad)
	}
	values := map[string]any{}
	var faults []error
	for i, doc := range parsed.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.NullNode, *ast.CommentGroupNode: // an empty file sets nothing
		case *ast.MappingNode:
			if i > 0 {
				return nil, configFault(file, body.GetToken(), "a second document; a config file holds one")
			}
			for _, pair := range body.Values {
				if err := configValue(file, pair, flags, values); err != nil {
					faults = append(faults, err)
				}
			}
		default:
			return nil, configFault(file, body.GetToken(), "want a mapping of settings")
		}
	}
	return values, errors.Join(faults...)
}

// configValue takes one pair of the file into values.
func configValue(file string, pair *ast.MappingValueNode, flags *pflag.FlagSet, values map[string]any) error {
	key, ok := pair.Key.(*ast.StringNode)
	if !ok {
		return configFault(file, pair.Key.GetToken(), "a key must be text")
	}
	flag := flags.Lookup(key.Value)
	if flag == nil || flag.Name == "config" || flag.Name == "help" {
		return configFault(file, key.GetToken(), "unknown key "+shownKey(key.Value))
	}
	value, err := scalar(pair.Value, flag.Value.Type())
	if err != nil {
		return configFault(file, pair.Value.GetToken(), fmt.Sprintf("%s: %v", key.Value, err))
	}
	values[key.Value] = value
	return nil
}

// shownKey quotes what could be a misspelt setting. Anything else may be a URL
// with its password, put there by a missing colon.
func shownKey(key string) string {
	if len(key) <= 40 && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-") == "" {
		return strconv.Quote(key)
	}
	return "(not shown)"
}

// scalar returns the value of a node if it has the type of a flag.
func scalar(node ast.Node, want string) (any, error) {
	switch want {
	case "bool":
		if n, ok := node.(*ast.BoolNode); ok {
			return n.Value, nil
		}
		return nil, errors.New("must be true or false")
	case "int":
		if n, ok := node.(*ast.IntegerNode); ok {
			return n.Value, nil
		}
		return nil, errors.New("must be a whole number")
	case "duration":
		if n, ok := node.(*ast.StringNode); ok {
			if _, err := time.ParseDuration(n.Value); err == nil {
				return n.Value, nil
			}
		}
		return nil, errors.New("must be a duration such as 100ms or 20s")
	}
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	}
	return nil, errors.New("must be text; put it in quotes")
}

func configFault(file string, t *token.Token, message string) error {
	line, column := 1, 1
	if t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	return fmt.Errorf("%s:%d:%d: %s", file, line, column, message)
}
