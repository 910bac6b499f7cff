package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/strictjson"
)

// record is the JSON form of a Key in Redis. Its names are those of the keys file.
type record struct {
	ID          string        `json:"id"`
	API         string        `json:"api"`
	Team        string        `json:"team,omitempty"`
	Name        string        `json:"name,omitempty"`
	Note        string        `json:"note,omitempty"`
	Environment string        `json:"environment,omitempty"`
	Plan        string        `json:"plan,omitempty"`
	LimitID     string        `json:"limit_id,omitempty"`
	CreatedBy   string        `json:"created_by,omitempty"`
	RotatedFrom string        `json:"rotated_from,omitempty"`
	RotatedTo   string        `json:"rotated_to,omitempty"`
	Scopes      []string      `json:"scopes,omitempty"`
	IPs         []string      `json:"ips,omitempty"`
	Limits      []recordLimit `json:"limits,omitempty"`
	Extras      []recordExtra `json:"extras,omitempty"`
	Status      keys.Status   `json:"status"`
	ExpiresAt   time.Time     `json:"expires_at,omitzero"`
	RetiresAt   time.Time     `json:"retires_at,omitzero"`
	CreatedAt   time.Time     `json:"created_at,omitzero"`
	UpdatedAt   time.Time     `json:"updated_at,omitzero"`
	AnchorDay   int           `json:"anchor_day,omitempty"`
	Version     int64         `json:"version"`
	Hash        string        `json:"hash,omitempty"`
	OtherHash   string        `json:"other_hash,omitempty"`
	Weak        bool          `json:"weak,omitempty"` // of earlier versions; read and ignored
	Client      *recordClient `json:"client,omitempty"`
}

type recordLimit struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
}

type recordClient struct {
	Issuer string `json:"issuer"`
	ID     string `json:"id"`
}

type recordExtra struct {
	Name     string    `json:"name"`
	Requests int64     `json:"requests"`
	Until    time.Time `json:"until"`
}

// EncodeRecord gives equal text for equal keys, which Create relies on.
func EncodeRecord(k *keys.Key) ([]byte, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(recordOf(k))
}

func recordOf(k *keys.Key) record {
	r := record{
		ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, Note: k.Note, Environment: k.Environment, Plan: k.Plan,
		LimitID: k.LimitID, CreatedBy: k.CreatedBy, RotatedFrom: k.RotatedFrom, RotatedTo: k.RotatedTo,
		Scopes: k.Scopes, Status: k.Status,
		ExpiresAt: k.ExpiresAt.UTC(), RetiresAt: k.RetiresAt.UTC(), CreatedAt: k.CreatedAt.UTC(), UpdatedAt: k.UpdatedAt.UTC(),
		AnchorDay: k.AnchorDay, Version: k.Version,
	}
	if !k.IsTombstone() {
		r.Hash = k.Hash()
	}
	if k.Other != (keys.Digest{}) {
		r.OtherHash = k.Other.Hex()
	}
	for _, prefix := range k.IPs {
		r.IPs = append(r.IPs, prefix.String())
	}
	for _, o := range k.Limits {
		r.Limits = append(r.Limits, recordLimit(o))
	}
	for _, x := range k.Extras {
		r.Extras = append(r.Extras, recordExtra{x.Name, x.Requests, x.Until.UTC()})
	}
	if k.IsClient() {
		r.Client = &recordClient{k.Client.Issuer, k.Client.ID}
	}
	return r
}

// PublicRecord returns the record of k as JSON without its hash; nil for nil. Errors: a
// *FieldError.
func PublicRecord(k *keys.Key) (json.RawMessage, error) {
	if k == nil {
		return nil, nil
	}
	if err := k.Validate(); err != nil {
		return nil, err
	}
	// By the stored form, so that a field that the record gains is here too. Whoever keeps it looks
	// for one more hash.
	r := recordOf(k)
	r.Hash, r.OtherHash = "", ""
	return json.Marshal(r)
}

// decodeRecord takes exactly what EncodeRecord could have written, in any order and layout.
func decodeRecord(data []byte) (*keys.Key, error) {
	var r record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("not a record: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("not a record: text after its end")
	}
	if name, ok := strictjson.Names(data); !ok {
		return nil, fmt.Errorf("not a record: unknown or repeated field %s", keys.Quote(name))
	}
	if r.Status == keys.Deleted && r.Hash == "" {
		k := &keys.Key{ID: r.ID, API: r.API, Status: keys.Deleted, Version: r.Version}
		return k, k.Validate()
	}
	algorithm, digest, err := keys.ParseHash(r.Hash)
	if err != nil {
		return nil, &keys.FieldError{Field: "hash", Problem: err.Error()}
	}
	var other keys.Digest
	if r.OtherHash != "" {
		// The algorithm only serves ParseHash: what the other one was made with is nowhere kept.
		if _, other, err = keys.ParseHash(keys.AlgorithmHMACSHA256 + ":" + r.OtherHash); err != nil {
			return nil, &keys.FieldError{Field: "other_hash", Problem: "is not 64 hexadecimal digits"}
		}
	}
	k := &keys.Key{
		ID: r.ID, API: r.API, Team: r.Team, Name: r.Name, Note: r.Note, Environment: r.Environment, Plan: r.Plan,
		LimitID: r.LimitID, CreatedBy: r.CreatedBy, RotatedFrom: r.RotatedFrom, RotatedTo: r.RotatedTo,
		Scopes: r.Scopes, Status: r.Status,
		ExpiresAt: r.ExpiresAt.UTC(), RetiresAt: r.RetiresAt.UTC(), CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
		AnchorDay: r.AnchorDay, Version: r.Version, Algorithm: algorithm, Digest: digest, Other: other,
	}
	if k.IPs, err = keys.ParseAddresses(r.IPs); err != nil {
		return nil, err
	}
	for _, o := range r.Limits {
		k.Limits = append(k.Limits, keys.Override(o))
	}
	for _, x := range r.Extras {
		k.Extras = append(k.Extras, keys.Extra{Name: x.Name, Requests: x.Requests, Until: x.Until.UTC()})
	}
	if r.Client != nil {
		if k.Client = keys.Client(*r.Client); !k.IsClient() {
			return nil, &keys.FieldError{Field: "client", Problem: "is empty"}
		}
	}
	return k, k.Validate()
}

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
