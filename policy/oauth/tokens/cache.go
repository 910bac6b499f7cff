package tokens

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
)

const (
	shardCount = 16
	// overhead is what a token takes beside its text, in bytes: what it says, and its places here.
	overhead = 700
	// swept is how many places are looked at for each new token, so that expired ones leave.
	swept = 2
)

// verified is a token that was verified, with the whole of its text.
type verified struct {
	text   string
	token  *oauth.Token
	stamp  issuer.Stamp
	issuer atomic.Pointer[oauth.Issuer] // the same as the token's, of the policy in force
	until  time.Time
	used   atomic.Bool // since the hand last passed
	place  int         // in its shard's ring
}

func (v *verified) bytes() int { return len(v.text) + overhead }

// cache keeps tokens until they expire, within bounds. What was not used lately leaves first.
type cache struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

type shard struct {
	mu     sync.RWMutex
	byHash map[uint64]*verified
	ring   []*verified
	hand   int
	bytes  int

	mostTokens, mostBytes int
}

func newCache(tokens, bytes int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].byHash = map[uint64]*verified{}
		c.shards[i].mostTokens, c.shards[i].mostBytes = max(tokens/shardCount, 1), bytes/shardCount
	}
	return c
}

// place returns where a token of an API is. The seed is this process', so nobody can make tokens
// that share a place; and a place says nothing until the whole text was compared.
func (c *cache) place(api, text string) (*shard, uint64) {
	h := maphash.String(c.seed, text) ^ maphash.String(c.seed, api)
	return &c.shards[h%shardCount], h
}

// find returns a token that one of the issuers has made, nil if it is not known.
func (c *cache) find(issuers []*oauth.Issuer, text string, now time.Time) *verified {
	s, h := c.place(issuers[0].API, text)
	s.mu.RLock()
	v := s.byHash[h]
	s.mu.RUnlock()
	if v == nil || v.text != text || !v.of(issuers) {
		return nil
	}
	if !now.Before(v.until) || !v.stamp.Valid(now) {
		s.mu.Lock()
		s.drop(h, v)
		s.mu.Unlock()
		return nil
	}
	if !v.used.Load() { // a store that all would make is dearer
		v.used.Store(true)
	}
	return v
}

// of reports whether one of the issuers is the token's. A policy that was loaded anew has others,
// which may be the same.
func (v *verified) of(issuers []*oauth.Issuer) bool {
	last := v.issuer.Load()
	for _, i := range issuers {
		if i == last {
			return true
		}
	}
	for _, i := range issuers {
		if i.Same(last) {
			v.issuer.Store(i)
			return true
		}
	}
	return false
}

// put keeps a token.
func (c *cache) put(text string, t *oauth.Token, stamp issuer.Stamp, now time.Time) {
	s, h := c.place(t.Issuer.API, text)
	v := &verified{text: strings.Clone(text), token: t, stamp: stamp, until: t.Until()}
	v.issuer.Store(t.Issuer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.bytes() > s.mostBytes {
		return
	}
	if old := s.byHash[h]; old != nil {
		s.drop(h, old)
	}
	for range swept {
		s.sweep(c, now, false)
	}
	for len(s.ring) >= s.mostTokens || s.bytes+v.bytes() > s.mostBytes {
		s.sweep(c, now, true)
	}
	v.place = len(s.ring)
	s.byHash[h], s.ring, s.bytes = v, append(s.ring, v), s.bytes+v.bytes()
}

// sweep moves the hand by one and drops what it finds if that has expired, and with room needed
// also if it was not used since the hand last passed.
func (s *shard) sweep(c *cache, now time.Time, needed bool) {
	if len(s.ring) == 0 {
		return
	}
	s.hand = (s.hand + 1) % len(s.ring)
	v := s.ring[s.hand]
	if !now.Before(v.until) || needed && !v.used.Swap(false) {
		_, h := c.place(v.token.Issuer.API, v.text)
		s.drop(h, v)
	}
}

// drop forgets a token. The caller has locked s.
func (s *shard) drop(h uint64, v *verified) {
	if s.byHash[h] != v {
		return // it has been dropped
	}
	delete(s.byHash, h)
	last := len(s.ring) - 1
	s.ring[v.place], s.ring[last].place = s.ring[last], v.place
	s.ring[last] = nil
	s.ring = s.ring[:last]
	s.bytes -= v.bytes()
}

// size returns how many tokens there are, and how many bytes they take.
func (c *cache) size() (tokens, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		tokens, bytes = tokens+len(s.ring), bytes+s.bytes
		s.mu.RUnlock()
	}
	return tokens, bytes
}
