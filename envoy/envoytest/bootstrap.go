package envoytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// object is a decoded YAML mapping.
type object = map[string]any

// rewrite turns the shipped bootstrap of s into the JSON that Start gives to Envoy: the listener on loopback,
// admin on a free port, the clusters at the addresses of s, and nothing else changed.
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
	if s.AccessLog != "" {
		if err := setAccessLog(listener, s.AccessLog); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	for name, address := range map[string]string{"tollgate": s.Tollgate, "upstream": s.Upstream} {
		cluster, err := named(static["clusters"], name)
		if err != nil {
			return nil, fmt.Errorf("bootstrap: cluster: %w", err)
		}
		if err := setEndpoint(cluster, name, address); err != nil {
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

// setEndpoint makes address (host:port or unix:PATH) the only endpoint of the cluster. An empty address leaves
// the shipped one.
func setEndpoint(cluster object, name, address string) error {
	if address == "" {
		return nil
	}
	var target object
	kind := "STATIC"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		target = object{"pipe": object{"path": path}}
	} else {
		host, text, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return fmt.Errorf("address %s: the port is no number", address)
		}
		if _, err := netip.ParseAddr(host); err != nil {
			kind = "STRICT_DNS" // only this type takes names
		}
		target = socketAddress(host, int(port))
	}
	cluster["type"] = kind
	cluster["load_assignment"] = object{
		"cluster_name": name,
		"endpoints":    []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": target}}}}},
	}
	return nil
}

// setAccessLog sends the listener's access logs to the file at path.
func setAccessLog(listener object, path string) error {
	chains, _ := listener["filter_chains"].([]any)
	for _, c := range chains {
		chain, _ := c.(object)
		manager, err := named(chain["filters"], "envoy.filters.network.http_connection_manager")
		if err != nil {
			return fmt.Errorf("listener filter: %w", err)
		}
		config, _ := manager["typed_config"].(object)
		log, err := named(config["access_log"], "envoy.access_loggers.file")
		if err != nil {
			return fmt.Errorf("access log: %w", err)
		}
		logger, ok := log["typed_config"].(object)
		if !ok {
			return errors.New("access log: no typed_config")
		}
		logger["path"] = path
	}
	return nil
}
