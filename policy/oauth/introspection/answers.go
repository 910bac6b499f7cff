package introspection

import (
	"container/list"
	"hash/maphash"
	"sync"
	"time"

	"tollgate/policy/oauth"
)

// Room bounds what is kept.
type Room struct{ Answers, Bytes int }

func (r Room) or(answers, bytes int) Room {
	if r.Answers <= 0 {
		r.Answers = answers
	}
	if r.Bytes <= 0 {
		r.Bytes = bytes
	}
	return r
}

// answer is what an issuer has said of a token. It is never changed.
type answer struct {
	issuer *oauth.Issuer // as the policy had it, by which the answer was judged
	text   string
	token  *oauth.Token // nil for one that is refused
	err    error        // a *oauth.RefusedError, or nil
	until  time.Time    // when it has to be asked for again
}

// overhead is about what an answer takes beside its token, in bytes.
const overhead = 512

func (e *answer) bytes() int {
	n := overhead + len(e.text)
	if e.token != nil {
		for _, scope := range e.token.Scopes {
			n += len(scope) + 16
		}
		n += len(e.token.Client) + len(e.token.Plan) + len(e.token.Team) + len(e.token.Lookup) + len(e.token.RecordID)
	}
	return n
}

// answers are bounded in number and bytes: what was not asked for longest goes. They are found by a
// hash that nobody outside can foretell, and compared as a whole.
type answers struct {
	room Room
	seed maphash.Seed

	mu    sync.Mutex
	all   map[uint64]*list.Element // of *answer; of two with one hash the later
	order list.List                // the first was asked for last
	bytes int
}

func newAnswers(room Room) *answers {
	return &answers{room: room, seed: maphash.MakeSeed(), all: map[uint64]*list.Element{}}
}

func (s *answers) hash(i *oauth.Issuer, text string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(i.API)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(i.URL)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(text)
	return h.Sum64()
}

// find returns the answer about a token, however old, nil if there is none that was judged by the
// same rules.
func (s *answers) find(i *oauth.Issuer, text string) *answer {
	hash := s.hash(i, text)
	s.mu.Lock()
	at := s.all[hash]
	if at == nil {
		s.mu.Unlock()
		return nil
	}
	s.order.MoveToFront(at)
	e := at.Value.(*answer)
	s.mu.Unlock()
	if e.text != text || !e.issuer.Same(i) {
		return nil
	}
	return e
}

// keep keeps an answer in place of an earlier one.
func (s *answers) keep(e *answer) {
	if e.bytes() > s.room.Bytes {
		return
	}
	hash := s.hash(e.issuer, e.text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.all[hash]; old != nil {
		s.drop(hash, old)
	}
	for len(s.all) >= s.room.Answers || s.bytes+e.bytes() > s.room.Bytes {
		last := s.order.Back()
		oldest := last.Value.(*answer)
		s.drop(s.hash(oldest.issuer, oldest.text), last)
	}
	s.all[hash] = s.order.PushFront(e)
	s.bytes += e.bytes()
}

// forget drops what is kept of a token.
func (s *answers) forget(i *oauth.Issuer, text string) {
	hash := s.hash(i, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.all[hash]; at != nil && at.Value.(*answer).text == text {
		s.drop(hash, at)
	}
}

// drop removes an answer. The caller has locked s.
func (s *answers) drop(hash uint64, at *list.Element) {
	s.bytes -= s.order.Remove(at).(*answer).bytes()
	delete(s.all, hash)
}

func (s *answers) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}
