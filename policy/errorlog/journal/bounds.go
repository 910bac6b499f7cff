package journal

import "time"

// Bounds are what an API may have in Redis.
type Bounds struct {
	Entries   int // of one key, or of one reason where no key is known
	Bytes     int // of all of the API's entries, as Redis stores them
	PerSecond int // entries of the API, over all servers, but those that only count
}

// DefaultBounds is what servers keep to.
func DefaultBounds() Bounds { return Bounds{Entries: 100, Bytes: 64 << 20, PerSecond: 100} }

const (
	// perEntry and perList are what an entry takes beside its text, and a list beside its entries:
	// its name, its place in the index and among the sizes, and the room that Redis has in hand.
	// TestMemory measures that they are not too little.
	perEntry = 16
	perList  = 640
	// burst is how much of the rate may come at once: a server writes once a second, and two of
	// them may do so within the same moment.
	burst = 2 * time.Second
)

// high is from how many bytes on an API has to give lists back, and low where that ends.
func (b Bounds) high() int { return b.Bytes - b.Bytes/16 }
func (b Bounds) low() int  { return b.Bytes - b.Bytes/8 }
