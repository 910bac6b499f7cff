package policy

import (
	"fmt"
	"strings"

	"tollgate/policy/keys"
)

// ValidateSecret reports whether a secret could ever be accepted as that of a key: it has the form
// of its API's keys and the prefix of its environment. Errors do not show it; they say where the
// policy would have to say something else.
func (s *Set) ValidateSecret(k *keys.Key, secret string) error {
	api := s.byName[k.API]
	if api == nil {
		return s.ValidateKey(k)
	}
	e, _ := api.spec.Environment(k.Environment)
	switch {
	case e != nil && !strings.HasPrefix(secret, e.Prefix):
		return fmt.Errorf("the secret has not the prefix %q of environment %q of api %q (%s), so every request with it would be refused",
			e.Prefix, e.Name, k.API, e.PrefixAt)
	case !api.begins(secret):
		return fmt.Errorf("the secret has not the form of the keys of api %q, which begin with %s, so every request with it would be refused: "+
			"key_format.prefixes (%s) must have its prefix too", k.API, strings.Join(api.spec.Prefixes, " or "), api.spec.PrefixesAt)
	case !api.resembles(secret):
		return fmt.Errorf("the secret has not the form of the keys of api %q, which end in a checksum, so every request with it would be refused: "+
			"key_format (%s) must say checksum: optional", k.API, api.spec.ChecksumAt)
	}
	return nil
}

// begins reports whether a secret has a prefix of the API's keys, if these have one.
func (a *API) begins(secret string) bool {
	for _, p := range a.spec.Prefixes {
		if len(secret) > len(p) && strings.HasPrefix(secret, p) {
			return true
		}
	}
	return len(a.spec.Prefixes) == 0
}

// MaxAddresses returns how many addresses the list of a key may have.
func (s *Set) MaxAddresses(api string) int {
	if a := s.byName[api]; a != nil {
		return a.spec.MaxAddresses
	}
	return keys.MaxAddresses
}
