package limits

import (
	"context"
	"encoding/json"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

const (
	// giveBackTime is how long servers have to give back what they hold. They hear of it within
	// some milliseconds, and tell the store in one round trip.
	giveBackTime = 500 * time.Millisecond
	lookEvery    = 20 * time.Millisecond
)

// reset has what is spent of some limits count no more. It returns them before and after; after is
// nil if nothing was reset.
func (o Open) reset(ctx context.Context, id string, names []string) (before, after []limit, err error) {
	k, err := o.get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	windows, err := o.windowsOf(k, names)
	if err != nil {
		return nil, nil, err
	}
	counted, err := o.count(ctx, k, windows)
	if err != nil {
		return nil, nil, err
	}
	said, err := json.Marshal(struct {
		LimitID string  `json:"limit_id"`
		Limits  []limit `json:"limits"`
	}{k.LimitID, counted})
	if err != nil {
		return nil, nil, err
	}
	err = o.Manager.ResetLimits(ctx, id, said, func(ctx context.Context) error {
		o.awaitGivenBack(ctx, k, windows)
		states, held, err := counters.NewStore(o.Store, nil).Reset(ctx, k.LimitID, windows)
		if err != nil {
			return err
		}
		before = limitsOf(windows, states, held)
		for i := range states {
			states[i].Spent = held[i]
		}
		after = limitsOf(windows, states, held)
		return nil
	})
	return before, after, err
}

// awaitGivenBack waits until servers hold nothing of the windows, or their time is up: what one
// holds that does not answer, or that goes on leasing, stays counted.
func (o Open) awaitGivenBack(ctx context.Context, k *keys.Key, windows []limits.Window) {
	ctx, cancel := context.WithTimeout(ctx, giveBackTime)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		counted, err := o.count(ctx, k, windows)
		held := int64(0)
		for _, l := range counted {
			held += l.Held
		}
		if err != nil || held == 0 {
			return // the reset will say what is wrong
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func limitsOf(windows []limits.Window, states []limits.State, held []int64) (all []limit) {
	for i, w := range windows {
		all = append(all, limit{
			Name: w.Name, Per: w.Per.String(), Size: w.Limit, Spent: states[i].Spent, Held: held[i], Left: w.Remaining(states[i]), Resets: states[i].Reset,
		})
	}
	return all
}
