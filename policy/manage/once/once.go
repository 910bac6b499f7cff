// Package once makes a request that is sent twice act once: who sends it names it, and the name is
// reserved in Redis before anything is made, with the id that it will have. It keeps no secret, so
// a repeated request hears the id of what was made and nothing more.
package once

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
)

// How long a name is remembered, and how many of one actor at a time.
const (
	Lifetime = 24 * time.Hour
	Most     = 1000
)

// ErrFull says that the actor has as many names reserved as one may.
var ErrFull = errors.New("once: too many names are reserved")

// ACL is for reserving.
func ACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"evalsha", "eval", "hget", "hset", "hdel", "hlen", "hgetall", "pexpire"},
		Keys:     []string{"tg:v1:once:*"},
	}
}

//go:embed reserve.lua
var reserveSource string

//go:embed replace.lua
var replaceSource string

// Reservations are those of all actors. They are safe for concurrent use.
type Reservations struct {
	client           redis.UniversalClient
	reserve, replace *redis.Script
}

// New returns the Reservations of a store.
func New(c redis.UniversalClient) *Reservations {
	return &Reservations{client: c, reserve: redis.NewScript(reserveSource), replace: redis.NewScript(replaceSource)}
}

// Reservation is one name of one actor.
type Reservation struct {
	At   time.Time // when it was made, or taken over; whole milliseconds
	Done bool      // what it is for is made
	Body [32]byte  // a sum of what was asked for
	ID   string    // of what is made; without spaces

	key, field, stored string
}

func (r *Reservation) text() string {
	state := "pending"
	if r.Done {
		state = "done"
	}
	return strconv.FormatInt(r.At.UnixMilli(), 10) + " " + state + " " + hex.EncodeToString(r.Body[:]) + " " + r.ID
}

// parse reads what text has written.
func (r *Reservation) parse(text string) error {
	parts := strings.Split(text, " ")
	if len(parts) != 4 || parts[3] == "" {
		return errors.New("once: not a reservation")
	}
	at, err := strconv.ParseInt(parts[0], 10, 64)
	body, hexErr := hex.DecodeString(parts[2])
	if err != nil || hexErr != nil || len(body) != len(r.Body) || parts[1] != "done" && parts[1] != "pending" {
		return errors.New("once: not a reservation")
	}
	r.At, r.Done, r.ID, r.stored = time.UnixMilli(at).UTC(), parts[1] == "done", parts[3], text
	copy(r.Body[:], body)
	return nil
}

// Reserve reserves a name of an actor for something that will have this id. fresh is false if the
// name was reserved before, within Lifetime: what is returned is what stands, whatever body and id
// say. Errors: ErrFull; any other means that the store did not answer.
func (s *Reservations) Reserve(ctx context.Context, actor, name string, body [32]byte, id string, now time.Time) (r *Reservation, fresh bool, err error) {
	sum := sha256.Sum256([]byte(name))
	r = &Reservation{At: now.UTC().Truncate(time.Millisecond), Body: body, ID: id, key: "tg:v1:once:{" + actor + "}", field: hex.EncodeToString(sum[:])}
	r.stored = r.text()
	answer, err := s.reserve.Run(ctx, s.client, []string{r.key}, r.field, r.stored, now.UnixMilli(), Lifetime.Milliseconds(), Most).Text()
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("once: %w", err)
	case answer == "":
		return r, true, nil
	case answer == "full":
		return nil, false, ErrFull
	}
	if err := r.parse(answer); err != nil {
		return nil, false, err
	}
	return r, false, nil
}

// TakeOver makes a reservation that nobody works on any more that of the caller, and reports
// whether it has become that: somebody else may be faster.
func (s *Reservations) TakeOver(ctx context.Context, r *Reservation, now time.Time) (bool, error) {
	next := *r
	next.At = now.UTC().Truncate(time.Millisecond)
	return s.swap(ctx, r, next)
}

// Finish notes that what a reservation is for is made.
func (s *Reservations) Finish(ctx context.Context, r *Reservation) error {
	next := *r
	next.Done = true
	_, err := s.swap(ctx, r, next)
	return err
}

func (s *Reservations) swap(ctx context.Context, r *Reservation, next Reservation) (bool, error) {
	swapped, err := s.write(ctx, r, next.text())
	if swapped {
		next.stored = next.text()
		*r = next
	}
	return swapped, err
}

// Drop gives a name back for which nothing was made, and certainly so.
func (s *Reservations) Drop(ctx context.Context, r *Reservation) error {
	_, err := s.write(ctx, r, "")
	return err
}

func (s *Reservations) write(ctx context.Context, r *Reservation, text string) (bool, error) {
	n, err := s.replace.Run(ctx, s.client, []string{r.key}, r.field, r.stored, text).Int()
	if err != nil {
		return false, fmt.Errorf("once: %w", err)
	}
	return n == 1, nil
}
