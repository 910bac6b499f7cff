package alerts

import (
	"fmt"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// Quota says that a key has spent a share of a limit per day or month.
type Quota struct {
	API, Team, Key, Plan string
	LimitID              string // whose counters the key spends
	Limit                string // the name
	Per                  limits.Unit
	Percent              int   // the threshold
	Spent, Size          int64 // in units of cost
	Resets               time.Time
	At                   time.Time // when it was seen, by the store's clock

	lower []int // thresholds below Percent, which are reached with it
}

// Watched returns the windows whose thresholds count: those of a day or a month. What is said of a
// shorter one comes too late to be of use.
func Watched(windows []limits.Window) (watched []limits.Window) {
	for _, w := range windows {
		if w.Limit > 0 && (w.Per == limits.Day || w.Per == limits.Month) {
			watched = append(watched, w)
		}
	}
	return watched
}

// Reached returns, for each window of which a threshold is reached, the highest such one. states
// and held, one for each window, are what is spent and what of that servers have leased, which is
// not spent yet. percents are 1 to 100 and ascend.
func Reached(k *keys.Key, percents []int, windows []limits.Window, states []limits.State, held []int64, now time.Time) (reached []Quota) {
	for i, w := range windows {
		spent, n := states[i].Spent-held[i], 0
		for n < len(percents) && w.Limit > 0 && spent*100 >= w.Limit*int64(percents[n]) {
			n++
		}
		if n == 0 {
			continue
		}
		reached = append(reached, Quota{
			API: k.API, Team: k.Team, Key: k.ID, Plan: k.Plan, LimitID: k.LimitID, Limit: w.Name, Per: w.Per,
			Percent: percents[n-1], Spent: spent, Size: w.Limit, Resets: states[i].Reset, At: now, lower: percents[:n-1],
		})
	}
	return reached
}

// marks name what this tells of, once per limit id, window and threshold: the highest threshold
// first, then those below it.
func (q *Quota) marks() []string {
	mark := func(percent int) string {
		return fmt.Sprintf("%s/%v/%s/%d/%d", q.LimitID, q.Per, q.Limit, q.Resets.Unix(), percent)
	}
	marks := []string{mark(q.Percent)}
	for i := len(q.lower) - 1; i >= 0; i-- {
		marks = append(marks, mark(q.lower[i]))
	}
	return marks
}

// Alert returns what somebody is to be told.
func (q *Quota) Alert() *Alert {
	return &Alert{
		Type: QuotaReached, API: q.API, Team: q.Team, Key: q.Key, Plan: q.Plan, At: q.At, Marks: q.marks(), Until: q.Resets,
		Details: []Detail{
			{"limit", q.Limit}, {"per", q.Per.String()}, {"percent", q.Percent}, {"spent", q.Spent}, {"size", q.Size}, {"resets", q.Resets.UTC()},
		},
	}
}
