package policy

// Refusal is what people are told of the sender of a refused request, beside its Decision. Nothing
// in it is a secret.
type Refusal struct {
	Address string // the client's, as far as it is known, in the form that the API's policy wants
	// RequestID is as the request has it, anything that a client may write in a header, but "" if
	// it may hold a key.
	RequestID string
	Handle    string // of the secret, where it is no known key's; see keys.Hasher.Handle
}

// Refusal returns that of a decision which is Done and whose API is known.
func (c *Check) Refusal() (r Refusal) {
	r.Address = c.api.spec.ErrorLog.Addresses.Text(c.api.spec.Address.of(c.request))
	if id, _ := c.request.header(headerRequestID); !c.mayHoldKey(id) {
		r.RequestID = id
	}
	if c.key == nil {
		r.Handle = c.keyID()
	}
	return r
}
