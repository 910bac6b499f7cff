package oauth

import (
	"encoding/json"
	"net/url"
	"strings"
)

// The errors of a challenge (RFC 6750 section 3.1).
const (
	InvalidToken      = "invalid_token"
	InsufficientScope = "insufficient_scope"
)

// Challenge is a WWW-Authenticate field for bearer tokens (RFC 6750 section 3, RFC 9728 section
// 5.1). Whatever is "" is left out. None of its parts may hold a quote, a backslash or what is not
// printable ASCII.
func Challenge(realm, code, scope, metadata string) string {
	var b strings.Builder
	b.WriteString(`Bearer realm="` + realm + `"`)
	for _, p := range [...]struct{ name, value string }{{"error", code}, {"scope", scope}, {"resource_metadata", metadata}} {
		if p.value != "" {
			b.WriteString(", " + p.name + `="` + p.value + `"`)
		}
	}
	return b.String()
}

// wellKnown is where the metadata of a resource is (RFC 9728 section 3).
const wellKnown = "/.well-known/oauth-protected-resource"

// MetadataURL is where the metadata of a resource is: between its host and its path. The resource
// is one that CheckURL takes.
func MetadataURL(resource string) string {
	u, err := url.Parse(resource)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + MetadataPath(resource)
}

// MetadataPath is the path of MetadataURL.
func MetadataPath(resource string) string {
	u, err := url.Parse(resource)
	if err != nil {
		return ""
	}
	return wellKnown + strings.TrimSuffix(u.EscapedPath(), "/")
}

// Metadata is what a resource tells its clients (RFC 9728 section 2).
type Metadata struct {
	Resource string   `json:"resource"`
	Servers  []string `json:"authorization_servers"`
	Scopes   []string `json:"scopes_supported,omitempty"`
	Methods  []string `json:"bearer_methods_supported"`
	Bound    bool     `json:"tls_client_certificate_bound_access_tokens,omitempty"`
}

// Document returns the metadata as it is served.
func (m Metadata) Document() ([]byte, error) {
	m.Methods = []string{"header"}
	return json.Marshal(m)
}
