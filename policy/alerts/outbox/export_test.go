package outbox

import "time"

// The bounds, for tests.
const MaxDead, LockTime, ClaimTime = maxDead, lockTime, claimTime

// Pause is pause.
func Pause(tries int, chance float64) time.Duration { return pause(tries, chance) }

// WithTicks has Run send when a tick comes.
func (s *Sender) WithTicks(ticks <-chan time.Time) *Sender {
	s.ticks = func() (<-chan time.Time, func()) { return ticks, func() {} }
	return s
}
