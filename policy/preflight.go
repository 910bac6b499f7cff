package policy

// What a browser says in a preflight, beside the method OPTIONS
// (https://fetch.spec.whatwg.org/#cors-preflight-request).
const (
	headerOrigin          = "origin"
	headerRequestedMethod = "access-control-request-method"
)

// preflight returns the method of the request that a CORS preflight asks about. It is no preflight
// to us, but an ordinary request, where the policy does not make them public. A browser sends no
// key with it, and the page cannot make it send one.
func (c *Check) preflight() (method string, ok bool) {
	if !c.api.spec.PublicPreflights || c.request.Method != "OPTIONS" {
		return "", false
	}
	origin, _ := c.request.header(headerOrigin)
	method, ok = c.request.header(headerRequestedMethod)
	return method, ok && origin != ""
}
