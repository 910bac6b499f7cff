package limits

import (
	"strings"
	"time"
)

// localSlots are the slots that Local has given out.
type localSlots struct {
	held  map[string]map[string]time.Time // by limit id and slot: when each ends by itself
	swept int64
}

// take takes a slot of a limit id if one of its share is free, and returns how many are taken. Of
// more than maxKeys limit ids, one that has none yet gets none until another has none any more.
func (s *localSlots) take(id string, t *Slot, share int64, maxKeys int, now time.Time) (taken int64, ok bool) {
	held := s.held[id]
	delete(held, t.Earlier)
	for slot, end := range held {
		// A clock that was ahead held it for longer than any does.
		if !end.After(now) || end.After(now.Add(t.Hold)) {
			delete(held, slot)
		}
	}
	if int64(len(held)) >= share || held == nil && !s.hasRoom(maxKeys, now) {
		return int64(len(held)), false
	}
	if held == nil {
		held = make(map[string]time.Time, 1)
		s.held[strings.Clone(id)] = held
	}
	held[strings.Clone(t.ID)] = now.Add(t.Hold)
	return int64(len(held)), true
}

// hasRoom says whether one more limit id may have slots, as Local.hasRoom does of windows.
func (s *localSlots) hasRoom(maxKeys int, now time.Time) bool {
	if len(s.held) < maxKeys {
		return true
	}
	if s.swept == now.Unix() {
		return false
	}
	s.swept = now.Unix()
	for id, held := range s.held {
		for slot, end := range held {
			if !end.After(now) {
				delete(held, slot)
			}
		}
		if len(held) == 0 {
			delete(s.held, id)
		}
	}
	return len(s.held) < maxKeys
}

// Hold has a slot that is still held here end at hold from now; 0 releases it.
func (l *Local) Hold(limitID, slot string, hold time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.slots.held[limitID]
	if _, ok := held[slot]; !ok {
		return
	}
	if hold > 0 {
		held[slot] = l.now().Add(hold)
		return
	}
	delete(held, slot)
	if len(held) == 0 {
		delete(l.slots.held, limitID)
	}
}
