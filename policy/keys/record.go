package keys

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
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
	Status      Status        `json:"status"`
	ExpiresAt   time.Time     `json:"expires_at,omitzero"`
	RetiresAt   time.Time     `json:"retires_at,omitzero"`
	CreatedAt   time.Time     `json:"created_at,omitzero"`
	UpdatedAt   time.Time     `json:"updated_at,omitzero"`
	AnchorDay   int           `json:"anchor_day,omitempty"`
	Version     int64         `json:"version"`
	Hash        string        `json:"hash,omitempty"`
	OtherHash   string        `json:"other_hash,omitempty"`
	Weak        bool          `json:"weak,omitempty"` // of earlier versions; read and ignored
}

type recordLimit struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
}

// encodeRecord gives equal text for equal keys, which Create relies on.
func encodeRecord(k *Key) ([]byte, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(recordOf(k))
}

func recordOf(k *Key) record {
	r := record{
		ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, Note: k.Note, Environment: k.Environment, Plan: k.Plan,
		LimitID: k.LimitID, CreatedBy: k.CreatedBy, RotatedFrom: k.RotatedFrom, RotatedTo: k.RotatedTo,
		Scopes: k.Scopes, Status: k.Status,
		ExpiresAt: k.ExpiresAt.UTC(), RetiresAt: k.RetiresAt.UTC(), CreatedAt: k.CreatedAt.UTC(), UpdatedAt: k.UpdatedAt.UTC(),
		AnchorDay: k.AnchorDay, Version: k.Version,
	}
	if !k.bare() {
		r.Hash = hashText(k)
	}
	if k.Other != (Digest{}) {
		r.OtherHash = k.Other.hex()
	}
	for _, prefix := range k.IPs {
		r.IPs = append(r.IPs, prefix.String())
	}
	for _, o := range k.Limits {
		r.Limits = append(r.Limits, recordLimit(o))
	}
	return r
}

func hashText(k *Key) string { return k.Algorithm + ":" + k.Digest.hex() }

// decodeRecord takes exactly what encodeRecord could have written, in any order and layout.
func decodeRecord(data []byte) (*Key, error) {
	var r record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("not a record: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("not a record: text after its end")
	}
	if err := exactNames(data); err != nil {
		return nil, err
	}
	if r.Status == Deleted && r.Hash == "" {
		k := &Key{ID: r.ID, API: r.API, Status: Deleted, Version: r.Version}
		return k, k.Validate()
	}
	algorithm, digest, err := parseHash(r.Hash)
	if err != nil {
		return nil, &FieldError{"hash", err.Error()}
	}
	var other Digest
	if r.OtherHash != "" {
		// The algorithm only serves parseHash: what the other one was made with is nowhere kept.
		if _, other, err = parseHash(AlgorithmHMACSHA256 + ":" + r.OtherHash); err != nil {
			return nil, &FieldError{"other_hash", "is not 64 hexadecimal digits"}
		}
	}
	k := &Key{
		ID: r.ID, API: r.API, Team: r.Team, Name: r.Name, Note: r.Note, Environment: r.Environment, Plan: r.Plan,
		LimitID: r.LimitID, CreatedBy: r.CreatedBy, RotatedFrom: r.RotatedFrom, RotatedTo: r.RotatedTo,
		Scopes: r.Scopes, Status: r.Status,
		ExpiresAt: r.ExpiresAt.UTC(), RetiresAt: r.RetiresAt.UTC(), CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
		AnchorDay: r.AnchorDay, Version: r.Version, Algorithm: algorithm, Digest: digest, Other: other,
	}
	if k.IPs, err = parseAddresses(r.IPs); err != nil {
		return nil, err
	}
	for _, o := range r.Limits {
		k.Limits = append(k.Limits, Override(o))
	}
	return k, k.Validate()
}

func parseAddresses(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, s := range list {
		prefix, err := parseAddress(s)
		if err != nil {
			return nil, &FieldError{fmt.Sprintf("ips[%d]", i), err.Error()}
		}
		out = append(out, prefix)
	}
	return out, nil
}

// exactNames refuses what encoding/json lets pass: a field named twice, of which the last would win, and a name in
// other letters than ours ("STATUS", "\u0073tatus"). data is known to be valid JSON; a json.Decoder's tokens would say
// the same at several times the price of the decoding itself.
func exactNames(data []byte) error {
	var names []string // of the objects that are open, outermost first
	var opened []int   // where in names each of them starts
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{':
			opened = append(opened, len(names))
		case '}':
			names = names[:opened[len(opened)-1]]
			opened = opened[:len(opened)-1]
		case '"':
			start := i + 1
			for i = start; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if !bytes.HasPrefix(bytes.TrimLeft(data[i+1:], " \t\r\n"), []byte(":")) {
				continue
			}
			name := string(data[start:i])
			if !isFieldName(name) || slices.Contains(names[opened[len(opened)-1]:], name) {
				return fmt.Errorf("not a record: unknown or repeated field %s", show(name))
			}
			names = append(names, name)
		}
	}
	return nil
}

func isFieldName(s string) bool {
	return only(s, func(c byte) bool { return isLower(c) || c == '_' })
}
