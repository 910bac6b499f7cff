// Package alerts says when somebody is to be told of a key, and the message that says so. It does
// no I/O. Package watch looks at the keys that are used and package inspect at all of them, package
// outbox keeps what is to be sent in Redis and sends it once over all servers, and package webhook
// makes the request.
package alerts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// The types of alerts, as messages, metrics and the log have them.
const (
	QuotaReached   = "quota.reached"
	KeyExpiring    = "key.expiring"
	KeyRotationDue = "key.rotation_due"
	KeyUnused      = "key.unused"
	ErrorsExceeded = "error_rate.exceeded"
	DeniedSpiked   = "denied.spiked"
	KeyNewNetwork  = "key.new_network"
	ReleasesLost   = "releases.lost"
)

// Alert is what somebody is to be told of once.
type Alert struct {
	Type                 string
	API, Team, Key, Plan string   // all but API may be ""
	Details              []Detail // what else the message says, in its order
	At                   time.Time

	// Marks name what this tells of. The first says whether somebody was told of it; of the others
	// nobody needs to be told any more. They count until a time.
	Marks []string
	Until time.Time
}

// Detail is a member of a message: a text, a number or a time.
type Detail struct {
	Name  string
	Value any
}

// Headline says in a few words what an alert is about.
func (a *Alert) Headline() string { return headline(a.Type) }

func headline(kind string) string {
	switch kind {
	case QuotaReached:
		return "a key has reached a share of its limit"
	case KeyExpiring:
		return "a key will expire"
	case KeyRotationDue:
		return "a key is due for rotation"
	case KeyUnused:
		return "a key is not used"
	case ErrorsExceeded:
		return "many requests fail"
	case DeniedSpiked:
		return "many more requests are refused than before"
	case KeyNewNetwork:
		return "a key is used from a new network"
	case ReleasesLost:
		return "places of requests under way end by themselves"
	}
	return kind
}

// ID is the message's, the same however often it is sent.
func (a *Alert) ID() string {
	sum := sha256.Sum256([]byte(a.Marks[0]))
	return "msg_" + hex.EncodeToString(sum[:16])
}

// Message returns the body of the message, JSON in the form that Standard Webhooks proposes.
// Source: https://github.com/standard-webhooks/standard-webhooks, spec, "Payload structure".
func (a *Alert) Message() []byte {
	data := members{{"api", a.API}}
	for _, d := range []Detail{{"team", a.Team}, {"key", a.Key}, {"plan", a.Plan}} {
		if d.Value != "" {
			data = append(data, d)
		}
	}
	data = append(data, a.Details...)
	body, _ := json.Marshal(members{{"type", a.Type}, {"timestamp", a.At.UTC()}, {"data", data}}) // all of it can be
	return body
}

// members is an object whose members keep their order.
type members []Detail

func (m members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, d := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(d.Value)
		if err != nil {
			return nil, err
		}
		b.WriteString(`"` + d.Name + `":`)
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
