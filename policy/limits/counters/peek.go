package counters

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/limits"
)

// PeekACL is what Peek needs: it can change nothing.
func PeekACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"time", "hmget", "zcount"},
		Keys:     []string{"%R~tg:v1:count:*", "%R~tg:v1:slots:*"},
	}
}

// Peek returns the outcome that a spend would have now, and how many units of each window servers
// hold in leases. It reads, and changes nothing. The store's word is all that it has: a server that
// holds such units may allow what the store would refuse, and shows them as remaining. Its errors
// are Spend's.
func (s *Store) Peek(ctx context.Context, sp *limits.Spend) (res limits.Result, held []int64, err error) {
	if err := sp.Validate(); err != nil {
		return res, nil, &limits.BrokenError{Err: err}
	}
	if !sp.Asks() {
		return s.unlimited(), nil, nil
	}
	c := s.client
	if cluster, ok := c.(*redis.ClusterClient); ok { // by the clock of the node that counts
		if c, err = cluster.MasterForKey(ctx, countKey(sp.ID)); err != nil {
			return res, nil, peekError(err)
		}
	}
	now, err := c.Time(ctx).Result()
	if err != nil {
		return res, nil, peekError(err)
	}
	now = time.UnixMilli(now.UnixMilli() + s.offset().Milliseconds()).UTC()
	states, held, err := peekWindows(ctx, c, sp, now.Unix())
	if err != nil {
		return res, nil, err
	}
	inUse := int64(0)
	if sp.Slot.ID != "" {
		// Those that have ended by themselves may still be there.
		if inUse, err = c.ZCount(ctx, slotsKey(sp.ID), "("+strconv.FormatInt(now.UnixMilli(), 10), "+inf").Result(); err != nil {
			return res, nil, peekError(err)
		}
	}
	return sp.Preview(now, states, inUse), held, nil
}

// peekWindows reads the windows in force at now, and what of them is leased.
func peekWindows(ctx context.Context, c redis.UniversalClient, s *limits.Spend, now int64) (states []limits.State, held []int64, err error) {
	if len(s.Windows) == 0 {
		return nil, nil, nil
	}
	var fields []string
	for _, w := range s.Windows {
		fields = append(fields, field(w), "previous:"+field(w))
	}
	stored, err := c.HMGet(ctx, countKey(s.ID), fields...).Result()
	if err != nil {
		return nil, nil, peekError(err)
	}
	return inForce(s.Windows, stored, now)
}

// inForce judges stored values, of each window its own and that of the window before, as spend.lua
// does: what is spent of the windows in force at now, and what of that is leased.
func inForce(windows []limits.Window, stored []any, now int64) (states []limits.State, held []int64, err error) {
	for i, w := range windows {
		last, leased, known, err := storedCount(w, stored[2*i])
		if err != nil {
			return nil, nil, err
		}
		previous, _, remembered, err := storedCount(w, stored[2*i+1])
		if err != nil || !remembered {
			previous = limits.Count{} // spend.lua passes over one that it cannot read
		}
		next := w.Advance(limits.Counter{Last: last, Previous: previous}, known, now).Last
		if !known || next.Start != last.Start {
			leased = 0
		}
		states = append(states, limits.State{Spent: next.Spent, Reset: time.Unix(next.End, 0).UTC()})
		held = append(held, leased)
	}
	return states, held, nil
}

// storedCount reads START:SPENT or START:SPENT:HELD; known is false where there is nothing.
func storedCount(w limits.Window, value any) (n limits.Count, held int64, known bool, err error) {
	text, ok := value.(string)
	if !ok {
		return n, 0, false, nil
	}
	parts := strings.Split(text, ":")
	numbers := make([]int64, 3)
	for i, part := range parts {
		if i < len(numbers) && err == nil {
			numbers[i], err = strconv.ParseInt(part, 10, 64)
		}
	}
	if err != nil || len(parts) < 2 || len(parts) > 3 || numbers[1] < 0 || numbers[1] > limits.MaxLimit || numbers[2] < 0 || numbers[2] > numbers[1] {
		return n, 0, false, &limits.BrokenError{Err: fmt.Errorf("limits: window %q: the stored value is no counter", w.Name)}
	}
	return limits.Count{Start: numbers[0], End: 1, Spent: numbers[1]}, numbers[2], true, nil
}

// peekError tells a key of another type, which is broken, from a store that does not serve.
func peekError(err error) error {
	if strings.HasPrefix(err.Error(), "WRONGTYPE") {
		return &limits.BrokenError{Err: fmt.Errorf("limits: read: %w", err)}
	}
	return fmt.Errorf("limits: read: %w", err)
}
