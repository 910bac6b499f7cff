package keyfile

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// Whatever prints an entry of a file must not show its secret or its digest.
func TestEntriesShowNoSecret(t *testing.T) {
	secret := keys.NewSecret("pb_")
	d := keys.NewHasher([]byte("pepper")).Digest(secret)
	e := Entry{Key: *keystest.Sample(func(k *keys.Key) { k.Digest = d }), Secret: secret}
	forbidden := []string{secret, hex.EncodeToString(d[:]), strings.ToUpper(hex.EncodeToString(d[:])), fmt.Sprint([32]byte(d)), fmt.Sprintf("%#v", [32]byte(d))[8:],
		hex.EncodeToString([]byte(secret)), string(d[:])}
	for name, v := range map[string]any{
		"entry": e, "&entry": &e, "entries": []Entry{e}, "in a struct": struct{ E *Entry }{&e},
	} {
		for how, text := range keystest.Shown(v) {
			for _, f := range forbidden {
				if strings.Contains(text, f) {
					t.Errorf("%s by %s shows it: %s", name, how, text)
				}
			}
		}
	}
	if got := fmt.Sprint(e); got != "Entry{key_pb_full secret [redacted]}" {
		t.Errorf("Entry prints as %s", got)
	}
	if got := fmt.Sprint(Entry{Key: e.Key}); got != "Entry{key_pb_full hash [redacted]}" {
		t.Errorf("Entry prints as %s", got)
	}
}
