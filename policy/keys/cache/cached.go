package cache

import (
	"slices"
	"sync/atomic"
	"unsafe"

	"tollgate/policy/keys"
)

// cached is a Grant as the cache keeps it: without pointers, see clockCache. What it refers to is
// in the sharedValues of its block.
type cached struct {
	end     int64
	created uint32
	noted   atomic.Uint32 // the Usage period in which the use was last noted

	// What the cache knows of the record.
	recordHash uint64        // see store.LookupResult
	at         atomic.Int64  // cache time in ns before it was read
	generation atomic.Uint32 // of the change stream, before it was read
	refreshing atomic.Bool   // it was asked for again

	profile                       uint8  // its place in sharedValues
	textStart                     uint16 // and that of id, name, team, and the limit id if it is another
	idBytes, nameBytes, teamBytes uint8
	limitIDBytes                  uint8 // 0: it is the id
	anchorDay                     int8
}

// sharedValues are what the grants of one block refer to. One writer at a time adds; readers take
// no lock, because what a grant that they have found refers to was there before it and never
// changes.
type sharedValues struct {
	first    atomic.Pointer[byte] // of the texts
	texts    []byte               // known to the writer only
	profiles [blockSlots]*keys.Profile
}

// grant returns what the cache keeps.
func (e *cached) grant(c *sharedValues) keys.Grant {
	return keys.Grant{
		Profile: c.profiles[e.profile], AnchorDay: e.anchorDay, EndsAt: e.end, CreatedMinute: e.created, Noted: &e.noted,
		IDBytes: e.idBytes, NameBytes: e.nameBytes, TeamBytes: e.teamBytes, OtherLimitID: e.limitIDBytes > 0,
		Texts: c.text(e.textStart, int(e.idBytes)+int(e.nameBytes)+int(e.teamBytes)+int(e.limitIDBytes)),
	}
}

// write makes an empty e what keeps g.
func (e *cached) write(g *keys.Grant, c *sharedValues) {
	e.end, e.created, e.anchorDay = g.EndsAt, g.CreatedMinute, g.AnchorDay
	e.noted.Store(g.Noted.Load())
	e.profile = c.addProfile(g.Profile)
	e.textStart = c.addText(g.Texts)
	e.idBytes, e.nameBytes, e.teamBytes = g.IDBytes, g.NameBytes, g.TeamBytes
	if g.OtherLimitID {
		e.limitIDBytes = uint8(len(g.LimitID()))
	}
}

// moveCached writes what is kept in one block to another one.
func moveCached(to *cached, c *sharedValues, from *cached, old *sharedValues) {
	g := from.grant(old)
	to.write(&g, c)
	to.recordHash = from.recordHash
	to.readAt(from.at.Load(), from.generation.Load())
}

// readAt notes when the record was read, or read again and found the same.
func (e *cached) readAt(at int64, generation uint32) {
	e.at.Store(at)
	e.generation.Store(generation)
	e.refreshing.Store(false)
}

// addProfile returns the place of p, which it takes if it has none.
func (c *sharedValues) addProfile(p *keys.Profile) uint8 {
	i := slices.IndexFunc(c.profiles[:], func(q *keys.Profile) bool { return q == p || q == nil })
	if c.profiles[i] == nil {
		c.profiles[i] = p
	}
	return uint8(i)
}

// addText adds a text and returns where it begins.
func (c *sharedValues) addText(text string) uint16 {
	start := len(c.texts)
	c.texts = append(c.texts, text...) // where there is no room, readers keep those of before
	c.first.Store(unsafe.SliceData(c.texts))
	return uint16(start)
}

func (c *sharedValues) text(start uint16, n int) string {
	return unsafe.String((*byte)(unsafe.Add(unsafe.Pointer(c.first.Load()), start)), n)
}
