package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
	keys    int    // of the load
}

// newEdge reads a shipped bootstrap, one of whose APIs is ours instead. Over gRPC the
// check holds the headers that our policy reads; over HTTP it holds those of all APIs.
func newEdge(overHTTP bool) (*edge, error) {
	shipped, err := envoy.Bootstrap()
	changes := [][2]string{
		{"{api: genapi}", "{api: bench}"},
		{"                - exact: x-api-key # pixelmagic\n", ""},
		{"                - exact: x-request-id # pixelbyte, pixelmagic\n", ""},
	}
	if overHTTP {
		shipped, err = envoy.HTTPBootstrap()
		changes = [][2]string{{`"api=genapi,encoding=raw"`, `"api=bench,encoding=raw"`}}
	}
	if err != nil {
		return nil, err
	}
	for _, change := range append(changes, [2]string{"domains: [api.example.com]", "domains: [bench.example.com]"}) {
		if bytes.Count(shipped, []byte(change[0])) != 1 {
			return nil, fmt.Errorf("the shipped bootstrap does not have %q once", change[0])
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
	for _, f := range e.filters() {
		if at(f, "name") == filterName {
			if config, ok := at(f, "typed_config").(object); ok {
				return config, nil
			}
		}
	}
	return nil, fmt.Errorf("bootstrap: no %s", filterName)
}

func (e *edge) filters() []any {
	filters, _ := e.manager["http_filters"].([]any)
	return filters
}

// replace puts filters in the place of the ext_authz filter.
func (e *edge) replace(with ...any) error {
	filters := e.filters()
	i := slices.IndexFunc(filters, func(f any) bool { return at(f, "name") == filterName })
	if i < 0 {
		return fmt.Errorf("bootstrap: no %s", filterName)
	}
	e.manager["http_filters"] = slices.Replace(slices.Clone(filters), i, i+1, with...)
	for _, host := range e.hosts() {
		if o, ok := host.(object); ok {
			delete(o, "typed_per_filter_config") // names the filter
		}
	}
	return nil
}

func (e *edge) hosts() []any {
	hosts, _ := at(e.manager, "route_config", "virtual_hosts").([]any)
	return hosts
}

// forMeasuring makes Envoy answer by itself what is allowed, so that no
// application is measured, and takes the access log away, which is as long
// in every case. Checks may wait, because both CPUs are busy all the time.
func (e *edge) forMeasuring() error {
	answer := object{"status": 200, "body": object{"inline_string": "{\"ok\":true}\n"}}
	for _, host := range e.hosts() {
		o, ok := host.(object)
		if !ok {
			return errors.New("bootstrap: a virtual host is no mapping")
		}
		o["routes"] = []any{object{"match": object{"prefix": "/"}, "direct_response": answer}}
	}
	delete(e.manager, "access_log")
	// Envoy would pass its own answers through these mappers, and answers of an application it does
	// not.
	delete(e.manager, "local_reply_config")
	filter, err := e.filter()
	if err != nil {
		return err
	}
	service, ok := filter["grpc_service"].(object)
	timed := service
	if !ok {
		service, _ = filter["http_service"].(object)
		if timed, ok = service["server_uri"].(object); !ok {
			return errors.New("bootstrap: ext_authz has neither a grpc_service nor an http_service")
		}
	}
	timed["timeout"] = "3s"
	delete(service, "retry_policy") // its max_interval is the time limit of a try
	return nil
}

// bytes returns the configuration as Envoy takes it.
func (e *edge) bytes() ([]byte, error) { return json.Marshal(e.root) }
