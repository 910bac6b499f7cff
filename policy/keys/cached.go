package keys

import (
	"slices"
	"sync/atomic"
	"unsafe"
)

// cached is a Grant as the cache keeps it: without pointers, see clock. What it refers to is in the commons of its block.
type cached struct {
	end     int64
	created uint32
	noted   atomic.Uint32 // the Usage period in which the use was last noted

	// What the cache knows of the record.
	sum        uint64        // of its text, see Store.lookupOwned
	at         atomic.Int64  // cache time in ns before it was read
	generation atomic.Uint32 // of the change stream, before it was read
	refreshing atomic.Bool   // it was asked for again

	profile, page                 uint8 // by their places in the commons
	offset                        uint16
	idBytes, nameBytes, teamBytes uint8
	limitIDBytes                  uint8 // 0: the id
	anchorDay                     int8
}

// commons are what the grants of one block refer to. Readers take no lock; one writer at a time adds.
type commons struct{ lists atomic.Pointer[lists] }

// lists never change: a longer one takes their place.
type lists struct {
	profiles []*Profile
	pages    []*page
}

// page holds texts, one after the other, which never change once they are there.
type page struct {
	used int // known to writers only
	text [1016]byte
}

// grant returns what the cache keeps.
func (e *cached) grant(c *commons) Grant {
	l := c.lists.Load()
	g := Grant{
		Profile: l.profiles[e.profile], AnchorDay: e.anchorDay, end: e.end, created: e.created, noted: &e.noted,
		idBytes: e.idBytes, nameBytes: e.nameBytes, teamBytes: e.teamBytes, otherLimitID: e.limitIDBytes > 0,
	}
	n := int(e.idBytes) + int(e.nameBytes) + int(e.teamBytes) + int(e.limitIDBytes)
	g.text = unsafe.String(&l.pages[e.page].text[e.offset], n)
	return g
}

// write makes an empty e what keeps g.
func (e *cached) write(g *Grant, c *commons) {
	e.end, e.created, e.anchorDay = g.end, g.created, g.AnchorDay
	e.idBytes, e.nameBytes, e.teamBytes = g.idBytes, g.nameBytes, g.teamBytes
	if g.otherLimitID {
		e.limitIDBytes = uint8(len(g.LimitID()))
	}
	e.noted.Store(g.noted.Load())
	e.profile = c.profile(g.Profile)
	e.page, e.offset = c.write(g.text)
}

// moveCached writes what one block keeps to another one.
func moveCached(to *cached, c *commons, from *cached, old *commons) {
	g := from.grant(old)
	to.write(&g, c)
	to.sum = from.sum
	to.readAt(from.at.Load(), from.generation.Load())
}

// readAt notes when the record was read, or read again and found the same.
func (e *cached) readAt(at int64, generation uint32) {
	e.at.Store(at)
	e.generation.Store(generation)
	e.refreshing.Store(false)
}

// load returns the lists, empty ones at first.
func (c *commons) load() lists {
	if l := c.lists.Load(); l != nil {
		return *l
	}
	return lists{}
}

// profile returns the place of p, which it adds if it is not there.
func (c *commons) profile(p *Profile) uint8 {
	l := c.load()
	i := slices.Index(l.profiles, p)
	if i < 0 {
		i = len(l.profiles)
		l.profiles = append(slices.Clip(l.profiles), p)
		c.lists.Store(&l)
	}
	return uint8(i)
}

// write adds a text, and returns where it is.
func (c *commons) write(text string) (number uint8, offset uint16) {
	l := c.load()
	n := len(l.pages) - 1
	if n < 0 || len(l.pages[n].text)-l.pages[n].used < len(text) {
		l.pages = append(slices.Clip(l.pages), &page{})
		c.lists.Store(&l)
		n++
	}
	p := l.pages[n]
	offset = uint16(p.used)
	p.used += copy(p.text[p.used:], text)
	return uint8(n), offset
}
