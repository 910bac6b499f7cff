package store

import (
	"encoding/json"
	"fmt"
	"slices"

	"tollgate/policy/keys"
)

// How large a key may be made. What is larger already stays as it is, can be read, ended and made
// smaller.
const (
	// maxRecord is the largest record, in bytes of its JSON. Addresses beyond MaxAddresses count
	// extra.
	maxRecord = 64 << 10
	// addressBytes is what an address takes in a record at most.
	addressBytes = 64
)

// CheckGrowth returns a *FieldError for a key that is larger than a record may be, unless old was
// as large already; old is nil for a new key.
func CheckGrowth(old, next *keys.Key, rules keys.Rules) error {
	most := max(rules.MaxAddresses(next.API), keys.MaxAddresses)
	if n := len(next.IPs); n > most && (old == nil || n > len(old.IPs)) {
		return &keys.FieldError{Field: "ips", Problem: fmt.Sprintf("%d are more than the %d that a key may have", n, most)}
	}
	if old != nil && old.Name == next.Name && old.Note == next.Note && slices.Equal(old.Scopes, next.Scopes) &&
		slices.Equal(old.IPs, next.IPs) && slices.Equal(old.Limits, next.Limits) {
		return nil
	}
	bytes := maxRecord + (most-keys.MaxAddresses)*addressBytes
	size := recordSize(next)
	if size <= bytes || old != nil && size <= recordSize(old) {
		return nil
	}
	field := "note"
	for name, n := range map[string]int{"scopes": len(next.Scopes), "ips": len(next.IPs), "limits": len(next.Limits)} {
		if n > 100 {
			field = name
		}
	}
	return &keys.FieldError{Field: field, Problem: fmt.Sprintf("the record would have %d bytes, more than %d", size, bytes)}
}

// recordSize is how many bytes the record takes, but for what changes without anybody's doing.
func recordSize(k *keys.Key) int {
	r := recordOf(k)
	r.Status, r.Version, r.Hash, r.OtherHash = "", 0, "", ""
	data, err := json.Marshal(r)
	if err != nil {
		return 0 // Validate has found why
	}
	return len(data)
}
