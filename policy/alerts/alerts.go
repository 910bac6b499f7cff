// Package alerts says when somebody is to be told of a key: which thresholds of a quota it has
// reached, and the message that says so. It does no I/O. Package watch looks at the keys that are
// used, package outbox keeps what is to be sent in Redis and sends it once over all servers, and
// package webhook makes the request.
package alerts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// QuotaReached is the type of the message about a Quota.
const QuotaReached = "quota.reached"

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

// Marks name what this tells of, once per limit id, window and threshold: the highest threshold
// first, then those below it, of which nobody needs to be told any more.
func (q *Quota) Marks() []string {
	mark := func(percent int) string {
		return fmt.Sprintf("%s/%v/%s/%d/%d", q.LimitID, q.Per, q.Limit, q.Resets.Unix(), percent)
	}
	marks := []string{mark(q.Percent)}
	for i := len(q.lower) - 1; i >= 0; i-- {
		marks = append(marks, mark(q.lower[i]))
	}
	return marks
}

// ID is the message's, the same however often it is sent.
func (q *Quota) ID() string {
	sum := sha256.Sum256([]byte(q.Marks()[0]))
	return "msg_" + hex.EncodeToString(sum[:16])
}

// Message returns the body of the message, JSON in the form that Standard Webhooks proposes.
// Source: https://github.com/standard-webhooks/standard-webhooks, spec, "Payload structure".
func (q *Quota) Message() []byte {
	type data struct {
		API     string    `json:"api"`
		Team    string    `json:"team,omitempty"`
		Key     string    `json:"key"`
		Plan    string    `json:"plan,omitempty"`
		Limit   string    `json:"limit"`
		Per     string    `json:"per"`
		Percent int       `json:"percent"`
		Spent   int64     `json:"spent"`
		Size    int64     `json:"size"`
		Resets  time.Time `json:"resets"`
	}
	body, _ := json.Marshal(struct { // strings, numbers and times of this millennium always can be
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      data      `json:"data"`
	}{QuotaReached, q.At.UTC(), data{
		q.API, q.Team, q.Key, q.Plan, q.Limit, q.Per.String(), q.Percent, q.Spent, q.Size, q.Resets.UTC(),
	}})
	return body
}
