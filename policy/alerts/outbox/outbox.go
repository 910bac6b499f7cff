// Package outbox keeps messages in Redis until they are sent: each is raised once over all servers
// and sent by one of them, again and again for a day, and then kept for somebody to look at.
package outbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxWaiting and maxDead bound what a receiver that is away makes grow: some 0.6 KB a message.
	maxWaiting, maxDead = 10_000, 1_000
	// markSlack is how much longer than its window a mark is kept, for clocks that disagree.
	markSlack = time.Hour
	// lockTime is for how long a server that dies keeps others from sending, and claimTime for how
	// long what it was sending is not sent by another. A try takes less than either.
	lockTime, claimTime = 30 * time.Second, time.Minute
	// perClaim is how many messages are sent at once.
	perClaim = 8
)

// Outbox is that of a Redis. It is safe for concurrent use.
type Outbox struct {
	client  redis.UniversalClient
	offset  func() time.Duration
	scripts scripts
}

// New returns an Outbox. offset is added to Redis' clock, in whole milliseconds; nil means 0.
func New(c redis.UniversalClient, offset func() time.Duration) *Outbox {
	if offset == nil {
		offset = func() time.Duration { return 0 }
	}
	return &Outbox{c, offset, newScripts()}
}

// The ways out, as records and tollgate alerts name them.
const (
	Webhook = "webhook"
	Slack   = "slack"
	Mail    = "mail"
)

// record is a message as Redis has it.
type record struct {
	To    string          `json:"to,omitempty"` // "" is Webhook
	Body  json.RawMessage `json:"body,omitempty"`
	First int64           `json:"first,omitempty"` // Unix ms of the first try, 0 before it
	Tries int             `json:"tries,omitempty"`
	Error string          `json:"error,omitempty"` // of the last try
}

func (r *record) text() string {
	text, _ := json.Marshal(r) // of a body that is JSON
	return string(text)
}

// Notice is what somebody is to be told of once.
type Notice struct {
	ID    string
	Marks []string // what it tells of: the first decides whether somebody was told
	Until time.Time
	Body  []byte   // JSON; nil where nothing is to be sent
	To    []string // the ways out; none is Webhook
}

// messages returns the id and the record of a message for each way out. Each has an id of its own,
// because one may be taken and another not.
func (n *Notice) messages() (all []any) {
	if n.Body == nil {
		return nil
	}
	if len(n.To) == 0 {
		return []any{n.ID, (&record{Body: n.Body}).text()}
	}
	for _, to := range n.To {
		r, id := &record{Body: n.Body}, n.ID
		if to != Webhook {
			sum := sha256.Sum256([]byte(n.ID + "/" + to))
			r.To, id = to, "msg_"+hex.EncodeToString(sum[:16])
		}
		all = append(all, id, r.text())
	}
	return all
}

// Raised says what became of a Notice.
type Raised int

// What becomes of a Notice.
const (
	Before  Raised = iota // it was raised before
	Told                  // it is raised, and will be sent if it has a Body
	NoRoom                // it is raised, and too many others wait to be sent
	invalid               // no answer of the script
)

// Raise raises a notice, unless that was done before.
func (o *Outbox) Raise(ctx context.Context, n *Notice) (Raised, error) {
	names := []string{messagesKey, dueKey}
	for _, m := range n.Marks {
		names = append(names, markPrefix+m)
	}
	got, err := o.scripts.raise.Run(ctx, o.client, names, append([]any{o.ahead(), n.Until.Add(markSlack).UnixMilli(), maxWaiting}, n.messages()...)...).Int()
	if err == nil && (got < 0 || got >= int(invalid)) {
		err = errReply
	}
	if err != nil {
		return Before, fmt.Errorf("alerts: raise: %w", err)
	}
	return Raised(got), nil
}

// Turn takes a turn of a name for a time, or asks for more time, and reports false while it is
// another's. now is Redis' clock, zero if it is another's.
func (o *Outbox) Turn(ctx context.Context, name, token string, hold time.Duration) (mine bool, now time.Time, err error) {
	reply, err := o.scripts.turn.Run(ctx, o.client, []string{turnPrefix + name}, o.ahead(), token, hold.Milliseconds()).StringSlice()
	if err != nil {
		return false, now, fmt.Errorf("alerts: turn: %w", err)
	}
	if len(reply) == 0 {
		return false, now, nil
	}
	ms, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		return false, now, fmt.Errorf("alerts: turn: %w", errReply)
	}
	return true, time.UnixMilli(ms).UTC(), nil
}

var errReply = errors.New("the store's answer cannot be read")

func (o *Outbox) ahead() int64 { return o.offset().Milliseconds() }

// claimed are messages that are to be sent now.
type claimed struct {
	mine     bool // the lock is this server's
	now      int64
	ends     string
	messages []message
}

type message struct {
	id string
	record
}

func (o *Outbox) claim(ctx context.Context, token string) (c claimed, err error) {
	reply, err := o.scripts.claim.Run(ctx, o.client, []string{lockKey, messagesKey, dueKey},
		o.ahead(), token, lockTime.Milliseconds(), claimTime.Milliseconds(), perClaim).StringSlice()
	if err != nil {
		return c, fmt.Errorf("alerts: claim: %w", err)
	}
	if len(reply) == 0 {
		return c, nil
	}
	if len(reply)%2 != 0 {
		return c, fmt.Errorf("alerts: claim: %w", errReply)
	}
	c.mine, c.ends = true, reply[1]
	if c.now, err = strconv.ParseInt(reply[0], 10, 64); err != nil {
		return c, fmt.Errorf("alerts: claim: %w", errReply)
	}
	for i := 2; i < len(reply); i += 2 {
		m := message{id: reply[i]}
		if err := json.Unmarshal([]byte(reply[i+1]), &m.record); err != nil {
			m.record = record{Error: "the record cannot be read"}
		}
		c.messages = append(c.messages, m)
	}
	return c, nil
}

// settle says that a message was sent (text ""), is to be sent again after a time, or never (-1).
// counts is false where another has claimed it since.
func (o *Outbox) settle(ctx context.Context, id, ends, text string, again time.Duration) (counts bool, err error) {
	ms := again.Milliseconds()
	if again < 0 {
		ms = -1
	}
	n, err := o.scripts.settle.Run(ctx, o.client, []string{messagesKey, dueKey, deadKey}, o.ahead(), id, ends, text, ms, maxDead).Int()
	if err != nil {
		return false, fmt.Errorf("alerts: settle: %w", err)
	}
	return n == 1, nil
}

// Listed is a message for people.
type Listed struct {
	ID    string
	To    string // the way out
	Body  json.RawMessage
	Dead  bool      // it was given up
	At    time.Time // when it is sent next, or was given up
	Tries int
	Error string // of the last try
}

// List returns what waits to be sent, and what was given up, by At.
func (o *Outbox) List(ctx context.Context) (all []Listed, err error) {
	for _, set := range []string{deadKey, dueKey} {
		entries, err := o.client.ZRangeWithScores(ctx, set, 0, -1).Result()
		if err != nil {
			return nil, fmt.Errorf("alerts: read: %w", err)
		}
		for part := range slices.Chunk(entries, 500) {
			listed, err := o.read(ctx, part)
			if err != nil {
				return nil, err
			}
			for i := range listed {
				listed[i].Dead = set == deadKey
			}
			all = append(all, listed...)
		}
	}
	return all, nil
}

func (o *Outbox) read(ctx context.Context, entries []redis.Z) (listed []Listed, err error) {
	var ids []string
	for _, e := range entries {
		id, _ := e.Member.(string)
		ids = append(ids, id)
	}
	texts, err := o.client.HMGet(ctx, messagesKey, ids...).Result()
	if err != nil {
		return nil, fmt.Errorf("alerts: read: %w", err)
	}
	for i, text := range texts {
		l := Listed{ID: ids[i], At: time.UnixMilli(int64(entries[i].Score)).UTC()}
		var r record
		if s, ok := text.(string); !ok {
			continue // it was sent meanwhile
		} else if err := json.Unmarshal([]byte(s), &r); err != nil {
			r = record{Error: "the record cannot be read"}
		}
		l.To, l.Body, l.Tries, l.Error = cmp.Or(r.To, Webhook), r.Body, r.Tries, r.Error
		listed = append(listed, l)
	}
	return listed, nil
}

// ErrNotDead says that no message of this id was given up.
var ErrNotDead = errors.New("no message with this id was given up")

// Replay has a message that was given up sent again, for another day, under the same id.
func (o *Outbox) Replay(ctx context.Context, id string) error {
	text, err := o.client.HGet(ctx, messagesKey, id).Result()
	if errors.Is(err, redis.Nil) {
		return ErrNotDead
	}
	if err != nil {
		return fmt.Errorf("alerts: replay: %w", err)
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Body == nil {
		return errors.New("alerts: replay: the record cannot be read")
	}
	n, err := o.scripts.replay.Run(ctx, o.client, []string{messagesKey, dueKey, deadKey}, o.ahead(), id, (&record{To: r.To, Body: r.Body}).text()).Int()
	switch {
	case err != nil:
		return fmt.Errorf("alerts: replay: %w", err)
	case n == 0:
		return ErrNotDead
	}
	return nil
}
