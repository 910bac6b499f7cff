package policy

// Decision is the answer to one request, in terms of HTTP.
type Decision struct {
	// ID tells this decision from all others, in metadata and log lines.
	ID     string
	Reason Reason
	// Allow is true only where every step of the decision said so.
	Allow bool
	// FailRPC is set where the policy hands what is undecided to the proxy's own failure policy
	// (undecided: rpc). Everything below but Metadata is then unset.
	FailRPC bool

	// Status, Body and Response answer a denied request; Response also goes on the upstream's
	// response to an allowed one.
	Status   int
	Body     []byte
	Response []Header

	// Request headers are set, replacing the client's, on an allowed request; then those named by
	// Remove are taken away. No name is in both.
	Request []Header
	Remove  []string
	// Target replaces the request target of an allowed request; empty leaves it.
	Target string

	// Metadata describes the decision, allowed or not, without any secret.
	Metadata []Header
}

// Meta returns a field of the metadata, or "".
func (d *Decision) Meta(name string) string {
	for _, m := range d.Metadata {
		if m.Name == name {
			return m.Value
		}
	}
	return ""
}
