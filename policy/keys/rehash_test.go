package keys

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

type rehashed struct {
	calls chan rehash
	err   error
}

func (s *rehashed) Rehash(_ context.Context, id string, from, to Digest) error {
	s.calls <- rehash{id, from, to}
	return s.err
}

func TestRehashes(t *testing.T) {
	store := &rehashed{calls: make(chan rehash), err: errors.New("away")}
	r := NewRehashes(store)
	failed := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	for range 3 {
		r.Add("key_a", Digest{1}, Digest{2})
	}
	if len(r.queue) != 1 {
		t.Errorf("%d wait", len(r.queue))
	}
	go func() {
		defer close(ended)
		r.Run(ctx, func(id string, err error) { failed <- id + err.Error() })
	}()
	for range 2 { // after a failure the next use asks again
		if got := <-store.calls; got != (rehash{"key_a", Digest{1}, Digest{2}}) {
			t.Error("another key or digest")
		}
		if got := <-failed; got != "key_aaway" {
			t.Error(got)
		}
		r.Add("key_a", Digest{1}, Digest{2})
	}
	<-store.calls
	cancel()
	<-ended
	for i := range 2 * maxRehashes {
		r.Add(fmt.Sprint("key_", i), Digest{}, Digest{}) // never waits
	}
}
