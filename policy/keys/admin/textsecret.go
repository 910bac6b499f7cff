package admin

import (
	"strings"

	"tollgate/policy/keys"
)

// textSecret refuses a secret in a text that everybody may read: one of the form of the API's keys,
// or secret itself, which may be empty. Only texts that differ from those of old are looked at,
// which may be nil.
func textSecret(rules keys.Rules, old, k *keys.Key, secret string) error {
	if old == nil {
		old = &keys.Key{}
	}
	for _, f := range []struct{ field, before, text string }{
		{"name", old.Name, k.Name}, {"note", old.Note, k.Note}, {"team", old.Team, k.Team},
		{"created_by", old.CreatedBy, k.CreatedBy}, {"limit_id", old.LimitID, k.LimitID},
	} {
		if f.text == f.before {
			continue
		}
		if secret != "" && strings.Contains(f.text, secret) || rules.HoldsSecret(k.API, f.text) {
			return textError(f.field)
		}
	}
	return nil
}

// nameSecret refuses a secret in the name of a team or member.
func nameSecret(field, name string) error {
	if keys.HoldsNewSecret(name) {
		return textError(field)
	}
	return nil
}

func textError(field string) error {
	return &keys.FieldError{Field: field, Problem: "holds what looks like a key, and everybody who sees the record would see it"}
}
