// Package telemetry sends by OTLP what OpenTelemetry's variables ask for: the spans of decisions,
// and the decision log. What it does not read of the variables (headers, certificates, timeout),
// the libraries do:
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
)

// scope names what spans and log records are of.
const scope = "tollgate"

// Server is what a collector is told about the server.
type Server struct {
	Version string
	Name    string // that tells it from others
}

func (s Server) resource(ctx context.Context) (*resource.Resource, error) {
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", scope), attribute.String("service.version", s.Version), attribute.String("service.instance.id", s.Name)),
		resource.WithTelemetrySDK(), resource.WithFromEnv()) // what comes last counts
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return about, nil
}

// variables are those for one signal: TRACES or LOGS.
type variables struct {
	env    func(string) string
	signal string
}

// exporter checks which exporter is asked for.
func (v variables) exporter() error {
	switch name := v.env("OTEL_" + v.signal + "_EXPORTER"); name {
	case "", "otlp", "none":
		return nil
	default:
		return fmt.Errorf("OTEL_%s_EXPORTER: unknown value %q, want otlp or none", v.signal, name)
	}
}

// off reports whether nothing is to be sent, and which variable says so.
func (v variables) off() (off bool, by string) {
	if strings.EqualFold(v.env("OTEL_SDK_DISABLED"), "true") {
		return true, "OTEL_SDK_DISABLED"
	}
	return v.env("OTEL_"+v.signal+"_EXPORTER") == "none", "OTEL_" + v.signal + "_EXPORTER"
}

// endpoint returns where to send to, "" if that is not said.
func (v variables) endpoint() string {
	return cmp.Or(v.env("OTEL_EXPORTER_OTLP_"+v.signal+"_ENDPOINT"), v.env("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

// The values of OTEL_EXPORTER_OTLP_PROTOCOL.
const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"
)

// protocol returns how to send. The libraries would send to their default where they cannot read an
// endpoint, so that is checked here.
func (v variables) protocol() (string, error) {
	protocol := cmp.Or(v.env("OTEL_EXPORTER_OTLP_"+v.signal+"_PROTOCOL"), v.env("OTEL_EXPORTER_OTLP_PROTOCOL"), protocolHTTP)
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_" + v.signal + "_ENDPOINT"} {
		u, err := url.Parse(v.env(name))
		web := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
		if v.env(name) != "" && !web && (err != nil || protocol != protocolGRPC) { // gRPC knows others, such as unix:
			return "", fmt.Errorf("%s: want http://HOST:PORT, or https://", name) // not repeated: it could hold a password
		}
	}
	if protocol != protocolGRPC && protocol != protocolHTTP {
		return "", fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: unknown value %q, want grpc or http/protobuf", protocol)
	}
	return protocol, nil
}

// number returns the number of a variable, or what it is by default.
func (v variables) number(name string, byDefault int) (int, error) {
	text := v.env(name)
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s: %q is not a whole number of 1 or more", name, text)
	}
	return n, nil
}
