package keys_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// Whatever prints a value of this package must not show the secret, the digest or the pepper.
func TestNothingIsShown(t *testing.T) {
	const pepper = "PEPPER-of-the-kitchen"
	h := keys.NewHasher([]byte(pepper))
	secret := keys.NewSecret("pb_")
	h.Handle(secret)
	d := h.Digest(secret)
	k := keystest.Sample(func(k *keys.Key) { k.Digest = d })
	forbidden := []string{secret, pepper, hex.EncodeToString(d[:]), strings.ToUpper(hex.EncodeToString(d[:])), fmt.Sprint([32]byte(d)), fmt.Sprintf("%#v", [32]byte(d))[8:],
		hex.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(pepper)), fmt.Sprint([]byte(pepper)), string(d[:])}
	for name, v := range map[string]any{
		"hasher": h, "*hasher": *h, "digest": d, "&digest": &d, "key": *k, "&key": k,
		"in a struct": struct {
			H *keys.Hasher
			D keys.Digest
			K keys.Key
		}{h, d, *k},
		"in a hidden field": struct{ h *keys.Hasher }{h},
	} {
		for how, text := range keystest.Shown(v) {
			for _, f := range forbidden {
				if strings.Contains(text, f) {
					t.Errorf("%s by %s shows it: %s", name, how, text)
				}
			}
		}
	}
	const redacted = "[redacted]"
	if d.String() != redacted || d.LogValue().String() != redacted || h.LogValue().String() != "Hasher{[redacted]}" {
		t.Error("a redaction changed")
	}
}
