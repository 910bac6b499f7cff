package tollgatetest

import (
	"bytes"
	"sync"
)

// Screen is an output that can be read while it is written.
type Screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends p.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// String returns what was written so far.
func (s *Screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
