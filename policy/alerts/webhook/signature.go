// Package webhook sends messages over HTTP to receivers that the operator names: signed as Standard
// Webhooks has it, or as Slack takes them.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	secretPrefix               = "whsec_"
	leastSecret, longestSecret = 24, 64 // bytes, as the specification has it
)

// Secret is what messages are signed with. It never prints itself.
type Secret struct{ key []byte }

// ParseSecret reads whsec_ and base64 of 24 to 64 bytes; white space around it does not count.
// The error does not repeat it.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < leastSecret || len(key) > longestSecret {
		return Secret{}, errors.New("want whsec_ and the base64 of 24 to 64 random bytes")
	}
	return Secret{key}, nil
}

// String hides the secret.
func (Secret) String() string { return secretPrefix + "***" }

// GoString hides the secret.
func (Secret) GoString() string { return secretPrefix + "***" }

// Sign returns the value of webhook-signature for a message that is sent at a time.
// Source: https://github.com/standard-webhooks/standard-webhooks, spec, "Signature scheme".
func (s Secret) Sign(id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
