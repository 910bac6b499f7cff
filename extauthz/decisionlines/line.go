package decisionlines

import (
	"encoding/json"
	"strconv"
	"time"

	"tollgate/policy"
)

// appendDecision appends the line of a decision. Its fields are those of the dynamic metadata, by
// the same names, and what the metadata leaves to the proxy's own log.
func appendDecision(b []byte, check *policy.Check, now time.Time, took time.Duration, share float64) []byte {
	d := check.Decision()
	b = append(b, `{"time":"`...)
	b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","allowed":`...)
	b = strconv.AppendBool(b, d.Allow)
	for _, m := range d.Metadata {
		b = appendField(b, m.Name, m.Value)
	}
	if d.Status != 0 {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(d.Status), 10)
	}
	s := check.Shown()
	b = appendField(b, "method", s.Method)
	if d.Meta("host") == "" {
		b = appendField(b, "host", s.Host)
	}
	b = appendField(b, "path", s.Path)
	b = appendField(b, "address", s.Address)
	b = appendField(b, "request_id", s.RequestID)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(took.Microseconds())/1000, 'f', 3, 64)
	if share < 1 {
		b = append(b, `,"share":`...)
		b = strconv.AppendFloat(b, share, 'g', -1, 64)
	}
	return append(b, "}\n"...)
}

// appendField appends a field that is not empty. name is plain.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	for i := range len(value) {
		if c := value[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(value) // a text always can be; bytes that are not UTF-8 become U+FFFD
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}
