package policy

// Unplaced reports whether a key was refused because nothing in the request says for which
// environment it is, or it names one that the API does not have: then every key is refused, and the
// proxy's configuration is to blame.
func (c *Check) Unplaced() bool {
	if c.decision.Reason != WrongEnvironment {
		return false
	}
	for i := range c.api.spec.Environments {
		if c.api.spec.Environments[i].accepts(c.request, c.host) {
			return false
		}
	}
	return true
}

// maxShown is how much of a name that a client may have chosen is shown, in bytes: the longest host
// name.
const maxShown = 253

// describePlace adds what the request said about where it belongs, and what the key is for, to a
// refusal that came from it.
func (c *Check) describePlace(add func(name, value string)) {
	shown := func(s string) string { return s[:min(len(s), maxShown)] }
	add("host", shown(c.request.Host))
	if c.api == nil {
		add("asked_api", shown(c.request.API.Value))
		return
	}
	add("asked_environment", shown(c.request.Environment.Value))
	add("key_environment", c.grant.Environment)
}
