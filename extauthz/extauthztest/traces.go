package extauthztest

import (
	"context"
	"strings"

	"tollgate/policy/keys"
)

// RequestTraces calls test with requests whose texts must not be kept, and what finds
// such a text.
func RequestTraces(test func(name, target, secret string, from BrokenStore, kept func(text string) bool)) {
	secret, _ := SmallKey()
	kept := func(text string) bool {
		return strings.Contains(text, secret) || strings.Contains(text, "mark") || strings.Contains(text, "consumer_id")
	}
	for name, from := range map[string]BrokenStore{
		"allowed": Allowing(), "unknown": {OnLookup: func(context.Context) (keys.Grant, error) { return keys.Grant{}, keys.ErrUnknown }},
	} {
		for _, target := range []string{"/items/1?mark=1", "/items/1?api_key=" + secret + "&mark=1", "/mark"} {
			test(name, target, secret, from, kept)
		}
	}
}
