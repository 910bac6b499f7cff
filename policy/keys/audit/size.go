package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	"tollgate/policy/keys"
)

// The stream is bounded by its entries, so an entry is bounded by its bytes: long lists of
// addresses in some changes must not fill the store. 100,000 entries of the usual size take about
// 50 MB, with the largest sides less than 300 MB.
const (
	// maxSideBytes is what the record before a change may take, and the one after it. One that is
	// longer loses what its long lists and texts have beyond keptItems and keptText, and in its
	// place has the size and a sum of the whole, so that a change of it is still seen.
	maxSideBytes = 1024
	keptItems    = 4
	keptText     = 64

	maxIDs = 1_000 // what is done to as many at once is rare
)

// fit returns e within the bounds.
func (e Entry) fit() Entry {
	e.Before, e.After = fitSide(e.Before), fitSide(e.After)
	if n := len(e.IDs) - maxIDs; n > 0 {
		e.IDs, e.MoreIDs = e.IDs[:maxIDs], n
	}
	return e
}

// fitSide shortens a record.
func fitSide(data json.RawMessage) json.RawMessage {
	if len(data) <= maxSideBytes {
		return data
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return cutWhole(data)
	}
	for name, value := range fields {
		if short, whole := shorten(value); whole != nil {
			fields[name], fields[name+"_cut"] = short, whole
		}
	}
	// What is still too long has many fields with long values: the longest go whole, but for what
	// it is about.
	largestFirst := slices.SortedFunc(maps.Keys(fields), func(a, b string) int { return len(fields[b]) - len(fields[a]) })
	for _, name := range largestFirst {
		if short := asJSON(fields); len(short) <= maxSideBytes {
			return short
		}
		if name != "id" && name != "status" && name != "version" {
			fields[name] = cutWhole(fields[name])
		}
	}
	return cutWhole(data)
}

// asJSON encodes what was JSON before.
func asJSON(v any) json.RawMessage {
	data, _ := json.Marshal(v) // cannot fail
	return data
}

// shorten returns the beginning of a long list or text, and what the whole was; nil for one that is
// short.
func shorten(value json.RawMessage) (short, whole json.RawMessage) {
	switch value = bytes.TrimSpace(value); {
	case len(value) == 0:
		return nil, nil
	case value[0] == '[':
		var items []json.RawMessage
		if json.Unmarshal(value, &items) != nil || len(items) <= keptItems {
			return nil, nil
		}
		return asJSON(items[:keptItems]), sumOf(value, len(items))
	case value[0] == '"':
		var text string
		if json.Unmarshal(value, &text) != nil || len(text) <= keptText {
			return nil, nil
		}
		return asJSON(keys.Shorten(text, keptText)), sumOf(value, len(text))
	}
	return nil, nil
}

// cutWhole stands for a value of which nothing is kept.
func cutWhole(value json.RawMessage) json.RawMessage {
	return asJSON(map[string]json.RawMessage{"cut": sumOf(value, len(value))})
}

// sumOf says what a value was that is not there: of how many items or bytes, and a part of its
// SHA-256.
func sumOf(value []byte, of int) json.RawMessage {
	sum := sha256.Sum256(value)
	return asJSON(struct {
		Of  int    `json:"of"`
		Sum string `json:"sha256"`
	}{of, hex.EncodeToString(sum[:6])})
}
