package storage

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/cmd/tollgate/tollgatetest"
)

// A pipeline longer than any buffer of the client or the server comes back whole.
func TestEmbeddedTakesLongPipelines(t *testing.T) {
	s, err := openEmbedded(filepath.Join(tollgatetest.ShortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const n = 2000
	value := string(make([]byte, 64))
	replies, err := s.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range n {
			p.Set(ctx, "key", value, 0)
			p.Get(ctx, "key")
		}
		return nil
	})
	if err != nil || len(replies) != 2*n {
		t.Fatalf("%d replies, %v", len(replies), err)
	}
}
