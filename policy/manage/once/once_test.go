package once_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"tollgate/policy/keys/keystest"
	"tollgate/policy/manage/once"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReservations(t *testing.T) {
	keystest.Parts{"OnlyOneIsFresh": onlyOneIsFresh, "LifeOfAName": lifeOfAName, "Bounded": bounded, "WhatIsNoReservation": whatIsNoReservation}.OnEveryStore(t, once.ACL())
}

// Of a hundred at once one reserves, and the others hear what it has reserved.
func onlyOneIsFresh(t *testing.T, c redis.UniversalClient) {
	s := once.New(c)
	var fresh atomic.Int64
	var work sync.WaitGroup
	ids := make([]string, 100)
	for i := range ids {
		work.Go(func() {
			r, won, err := s.Reserve(t.Context(), "mem_a", "name", [32]byte{1}, fmt.Sprint("key_", i), keystest.Noon())
			if err != nil {
				t.Error(err)
				return
			}
			if won {
				fresh.Add(1)
			}
			ids[i] = r.ID
		})
	}
	work.Wait()
	for _, id := range ids {
		if id != ids[0] || fresh.Load() != 1 {
			t.Fatalf("%d fresh, ids %v", fresh.Load(), ids)
		}
	}
	// A name is its actor's own.
	if _, won, err := s.Reserve(t.Context(), "mem_b", "name", [32]byte{1}, "key_b", keystest.Noon()); err != nil || !won {
		t.Errorf("another actor: %v, %v", won, err)
	}
}

func lifeOfAName(t *testing.T, c redis.UniversalClient) {
	s, noon := once.New(c), keystest.Noon()
	reserve := func(at time.Time, id string) (*once.Reservation, bool) {
		t.Helper()
		r, fresh, err := s.Reserve(t.Context(), "mem_a", "name", [32]byte{2}, id, at)
		if err != nil {
			t.Fatal(err)
		}
		return r, fresh
	}
	first, _ := reserve(noon, "key_1")
	one, _ := reserve(noon.Add(time.Minute), "key_2")
	two, fresh := reserve(noon.Add(time.Minute), "key_3")
	if fresh || one.ID != "key_1" || one.Done || !one.At.Equal(noon) || one.Body != [32]byte{2} {
		t.Fatalf("%+v", one)
	}
	won, err := s.TakeOver(t.Context(), one, noon.Add(time.Minute))
	if err != nil || !won || !one.At.Equal(noon.Add(time.Minute)) {
		t.Errorf("taken over: %v, %v", won, err)
	}
	if won, err := s.TakeOver(t.Context(), two, noon.Add(time.Minute+time.Second)); err != nil || won {
		t.Errorf("taken over twice: %v, %v", won, err)
	}
	// Who was overtaken changes nothing.
	if err := errors.Join(s.Drop(t.Context(), first), s.Finish(t.Context(), first)); err != nil {
		t.Error(err)
	}
	if r, fresh := reserve(noon.Add(time.Minute), "key_4"); fresh || r.Done {
		t.Errorf("%v %+v", fresh, r)
	}
	if err := s.Finish(t.Context(), one); err != nil {
		t.Error(err)
	}
	if r, fresh := reserve(noon.Add(time.Hour), "key_5"); fresh || !r.Done || r.ID != "key_1" {
		t.Errorf("%v %+v", fresh, r)
	}
	if r, fresh := reserve(noon.Add(time.Minute+once.Lifetime), "key_6"); !fresh || r.ID != "key_6" {
		t.Errorf("a day later: %v %+v", fresh, r)
	} else if err := s.Drop(t.Context(), r); err != nil {
		t.Error(err)
	}
	if _, fresh := reserve(noon.Add(time.Minute+once.Lifetime), "key_7"); !fresh {
		t.Error("a name that was dropped is still reserved")
	}
}

// An actor has a thousand at most, of which those that are over make room.
func bounded(t *testing.T, c redis.UniversalClient) {
	s, noon := once.New(c), keystest.Noon()
	var work sync.WaitGroup
	for w := range 10 {
		work.Go(func() {
			for i := range once.Most / 10 {
				if _, _, err := s.Reserve(t.Context(), "mem_a", fmt.Sprint(w, " ", i), [32]byte{}, "key_x", noon); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if _, _, err := s.Reserve(t.Context(), "mem_a", "one more", [32]byte{}, "key_x", noon); !errors.Is(err, once.ErrFull) {
		t.Errorf("one more: %v", err)
	}
	if _, fresh, err := s.Reserve(t.Context(), "mem_a", "one more", [32]byte{}, "key_x", noon.Add(once.Lifetime)); err != nil || !fresh {
		t.Errorf("a day later: %v", err)
	}
}

// What somebody else has written in a reservation's place is an error, and so is a store that is
// away: neither is taken for a free name.
func whatIsNoReservation(t *testing.T, c redis.UniversalClient) {
	s, noon := once.New(c), keystest.Noon()
	r, _, err := s.Reserve(t.Context(), "mem_a", "name", [32]byte{3}, "key_1", noon)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("name"))
	body := hex.EncodeToString(make([]byte, 32))
	at := strconv.FormatInt(noon.UnixMilli(), 10)
	for _, text := range []string{at, at + " pending " + body + " ", at + " gone " + body + " key_1", at + " done abc key_1", at + " done " + body[2:] + " key_1"} {
		if err := c.HSet(t.Context(), "tg:v1:once:{mem_a}", hex.EncodeToString(sum[:]), text).Err(); err != nil {
			t.Fatal(err)
		}
		if _, fresh, err := s.Reserve(t.Context(), "mem_a", "name", [32]byte{3}, "key_2", noon); err == nil || fresh {
			t.Errorf("%q: fresh %v, no error", text, fresh)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, fresh, err := s.Reserve(ended, "mem_a", "other", [32]byte{3}, "key_3", noon); err == nil || fresh {
		t.Errorf("no answer: fresh %v, %v", fresh, err)
	}
	if err := s.Finish(ended, r); err == nil || r.Done {
		t.Errorf("no answer: %v, %+v", err, r)
	}
}
