package envoytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// object is a decoded YAML mapping.
type object = map[string]any

// rewrite turns the shipped bootstrap of s into the JSON that Start gives to Envoy: the listener on
// loopback, admin on a free port, the clusters at the addresses of s, and nothing else changed.
func rewrite(s *Settings) ([]byte, error) {
	var root object
	if err := yaml.Unmarshal(s.Bootstrap, &root); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	root["admin"] = object{"address": socketAddress("127.0.0.1", 0)}
	static, _ := root["static_resources"].(object)
	listener, err := named(static["listeners"], "ingress")
	if err != nil {
		return nil, fmt.Errorf("bootstrap: listener: %w", err)
	}
	listener["address"] = socketAddress("127.0.0.1", s.ListenPort)
	if s.ProxyProtocol {
		listener["listener_filters"] = []any{object{
			"name": "envoy.filters.listener.proxy_protocol",
			"typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
			},
		}}
	}
	http, err := manager(listener)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: listener: %w", err)
	}
	if s.AccessLog != "" {
		if err := setAccessLog(http, s.AccessLog); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	if s.CheckTimeout != 0 {
		if err := setCheckTimeout(http, s.CheckTimeout); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	for name, address := range map[string]string{"tollgate": s.Tollgate, "upstream": s.Upstream} {
		cluster, err := named(static["clusters"], name)
		if err != nil {
			return nil, fmt.Errorf("bootstrap: cluster: %w", err)
		}
		if err := setEndpoints(cluster, name, address); err != nil {
			return nil, fmt.Errorf("bootstrap: cluster %s: %w", name, err)
		}
	}
	return json.Marshal(root)
}

// named returns the element of a decoded list whose `name` is name.
func named(list any, name string) (object, error) {
	elements, _ := list.([]any)
	for _, e := range elements {
		if o, ok := e.(object); ok && o["name"] == name {
			return o, nil
		}
	}
	return nil, fmt.Errorf("nothing named %q", name)
}

// socketAddress returns Envoy's form of a TCP address.
func socketAddress(host string, port int) object {
	return object{"socket_address": object{"address": host, "port_value": port}}
}

// setEndpoints makes the addresses (host:port or unix:PATH, joined with commas) the endpoints of
// the cluster. An empty text leaves the shipped one.
func setEndpoints(cluster object, name, addresses string) error {
	if addresses == "" {
		return nil
	}
	var endpoints []any
	kind := "STATIC"
	for address := range strings.SplitSeq(addresses, ",") {
		target, named, err := endpoint(address)
		if err != nil {
			return err
		}
		if named {
			kind = "STRICT_DNS" // only this type takes names
		}
		endpoints = append(endpoints, object{"endpoint": object{"address": target}})
	}
	cluster["type"] = kind
	cluster["load_assignment"] = object{
		"cluster_name": name,
		"endpoints":    []any{object{"lb_endpoints": endpoints}},
	}
	return nil
}

// endpoint returns Envoy's form of host:port or unix:PATH, and whether the host is a name.
func endpoint(address string) (target object, named bool, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return object{"pipe": object{"path": path}}, false, nil
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, false, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, false, fmt.Errorf("address %s: the port is no number", address)
	}
	_, notAddress := netip.ParseAddr(host)
	return socketAddress(host, int(port)), notAddress != nil, nil
}

// manager returns the configuration of the listener's HTTP connection manager.
func manager(listener object) (object, error) {
	chains, _ := listener["filter_chains"].([]any)
	if len(chains) != 1 {
		return nil, fmt.Errorf("%d filter chains, want one", len(chains))
	}
	chain, _ := chains[0].(object)
	return typed(chain["filters"], "envoy.filters.network.http_connection_manager")
}

// typed returns the typed_config of the element of a decoded list whose `name` is name.
func typed(list any, name string) (object, error) {
	element, err := named(list, name)
	if err != nil {
		return nil, err
	}
	config, ok := element["typed_config"].(object)
	if !ok {
		return nil, fmt.Errorf("%s has no typed_config", name)
	}
	return config, nil
}

// setAccessLog sends the access log to the file at path.
func setAccessLog(manager object, path string) error {
	logger, err := typed(manager["access_log"], "envoy.access_loggers.file")
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	logger["path"] = path
	return nil
}

// setCheckTimeout gives each check, and each try of it, that long. Envoy Gateway has a filter
// for each of its policies, with the policy in the name.
func setCheckTimeout(manager object, limit time.Duration) error {
	filters, _ := manager["http_filters"].([]any)
	found := false
	for _, f := range filters {
		filter, _ := f.(object)
		name, _ := filter["name"].(string)
		if name != "envoy.filters.http.ext_authz" && !strings.HasPrefix(name, "envoy.filters.http.ext_authz/") {
			continue
		}
		config, ok := filter["typed_config"].(object)
		if !ok {
			return fmt.Errorf("http filter: %s has no typed_config", name)
		}
		if err := setFilterTimeout(config, limit); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("http filter: nothing named %q", "envoy.filters.http.ext_authz")
	}
	return nil
}

func setFilterTimeout(filter object, limit time.Duration) error {
	text := strconv.FormatFloat(limit.Seconds(), 'f', -1, 64) + "s"
	service, ok := filter["grpc_service"].(object)
	timed := service
	if !ok {
		service, _ = filter["http_service"].(object)
		if timed, ok = service["server_uri"].(object); !ok {
			return errors.New("ext_authz has neither a grpc_service nor an http_service")
		}
	}
	timed["timeout"] = text
	if retry, ok := service["retry_policy"].(object); ok {
		if pause, ok := retry["retry_back_off"].(object); ok {
			pause["max_interval"] = text // the limit of each try, see the bootstraps
		}
	}
	return nil
}
