package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"

	"tollgate/envoy"
)

// object is a decoded YAML mapping.
type object = map[string]any

// filterName is that of the filter whose settings matter here.
const filterName = "envoy.filters.http.ext_authz"

// edge is a shipped Envoy configuration that can be changed.
type edge struct {
	root    object
	manager object // the HTTP connection manager
}

// newEdge reads the shipped bootstrap for one API, which names ours instead.
func newEdge() (*edge, error) {
	shipped, err := envoy.Bootstrap("pixelbyte")
	if err != nil {
		return nil, err
	}
	for _, change := range [][2]string{{"{api: pixelbyte}", "{api: bench}"}, {"domains: [api.pixelbyte.io]", "domains: [bench.example.com]"}} {
		if bytes.Count(shipped, []byte(change[0])) != 1 {
			return nil, fmt.Errorf("the shipped bootstrap has no %q", change[0])
		}
		shipped = bytes.Replace(shipped, []byte(change[0]), []byte(change[1]), 1)
	}
	e := &edge{}
	if err := yaml.Unmarshal(shipped, &e.root); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	listeners, _ := at(e.root, "static_resources", "listeners").([]any)
	if len(listeners) != 1 {
		return nil, errors.New("bootstrap: want one listener")
	}
	chains, _ := at(listeners[0], "filter_chains").([]any)
	if len(chains) != 1 {
		return nil, errors.New("bootstrap: want one filter chain")
	}
	filters, _ := at(chains[0], "filters").([]any)
	if len(filters) != 1 {
		return nil, errors.New("bootstrap: want one network filter")
	}
	e.manager, _ = at(filters[0], "typed_config").(object)
	if e.manager == nil {
		return nil, errors.New("bootstrap: no connection manager")
	}
	return e, nil
}

// at follows the names into a decoded mapping; nil if one of them is missing.
func at(v any, names ...string) any {
	for _, name := range names {
		o, ok := v.(object)
		if !ok {
			return nil
		}
		v = o[name]
	}
	return v
}

// filter returns the settings of the ext_authz filter.
func (e *edge) filter() (object, error) {
	filters, _ := e.manager["http_filters"].([]any)
	for _, f := range filters {
		if at(f, "name") == filterName {
			if config, ok := at(f, "typed_config").(object); ok {
				return config, nil
			}
		}
	}
	return nil, fmt.Errorf("bootstrap: no %s", filterName)
}

// bytes returns the configuration as Envoy takes it.
func (e *edge) bytes() ([]byte, error) { return json.Marshal(e.root) }
