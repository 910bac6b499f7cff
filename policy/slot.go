package policy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"tollgate/policy/limits"
)

// wantSlot has the spend take a slot where the plan limits how many requests of the key are under
// way.
func (c *Check) wantSlot() {
	places := c.plan.concurrent(c.key.Limits, c.key.Extras, c.now)
	if places == 0 || c.route.NoSlot {
		return
	}
	if c.plan.Shadow {
		places = limits.MaxPlaces // as many as can be told
	}
	rules := &c.api.spec.Slots
	c.spend.Slot = limits.Slot{ID: c.newSlotID(rules), Places: places, Hold: rules.MaxDuration}
}

// newSlotID returns 128 random bits in hexadecimal digits. Where the proxy names requests, what
// names this one stands before them: another try of the same request finds the slot of the first by
// that.
func (c *Check) newSlotID(rules *SlotRules) string {
	var b [24]byte
	var digits [49]byte
	_, _ = rand.Read(b[8:]) // never fails
	hex.Encode(digits[17:], b[8:])
	id, _ := c.request.header(headerRequestID)
	if !rules.RequestIDs || id == "" {
		return put(&c.texts, digits[17:])
	}
	sum := sha256.Sum256([]byte(id))
	hex.Encode(digits[:], sum[:8])
	digits[16] = ':'
	return put(&c.texts, digits[:])
}

// Slot returns the slot that an allowed request has taken, and the limit id that it is of; ok is
// false where there is none.
func (c *Check) Slot() (limitID, slot string, ok bool) {
	taken := c.decision.Allow && c.counted && c.result.Allowed && c.spend.Slot.ID != ""
	return c.spend.ID, c.spend.Slot.ID, taken
}

// RequestID returns what names the request, "" unless the API says that the proxy makes the names:
// a client could name the request of another.
func (c *Check) RequestID() string {
	if c.api == nil || !c.api.spec.Slots.RequestIDs {
		return ""
	}
	id, _ := c.request.header(headerRequestID)
	return id
}
