// Package standing tracks whether a server can trust its store: whether it has reached it, whether
// its pepper is that of the keys, and whether it is still the same store, so that an emptied one is
// not believed when it says that there is no such key.
package standing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// Why the store's word that there is no such key does not count. All are an ErrUnvouched to
// errors.Is.
var (
	ErrUnvouched  = errors.New("keys: the store cannot say now that there is no such key")
	ErrEmptied    = fmt.Errorf("%w: it was emptied", ErrUnvouched)
	errNotReached = fmt.Errorf("%w: this server has not got to know it since it started", ErrUnvouched)
)

const (
	// claimWait is how long a server waits, before it says that its pepper is that of an empty
	// store, for those that listen there already and may remember what it was.
	claimWait = 3 * time.Second
	claimPoll = 100 * time.Millisecond
	// evictionEvery is after how many looks the store is asked again what it does when its memory
	// is full.
	evictionEvery = 30
	// writesGrace is how long the store may take no writes, as while it fails over, before that
	// counts.
	writesGrace = 10 * time.Second
)

// ACL is for the pepper and the marks.
func ACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"evalsha", "eval", "get", "set", "time"},
		Keys:     []string{pepperKey, markPrefix + "*"},
	}
}

// PepperACL is for CheckPepper.
func PepperACL() connect.ACL {
	return connect.ACL{Commands: []string{"get"}, Keys: []string{pepperKey}}
}

// EvictionACL is for what a server asks besides: what the store does when its memory is full.
func EvictionACL() connect.ACL { return connect.ACL{Commands: []string{"info"}} }

// State is what a server knows of its store at a moment.
type State struct {
	Reached  bool      // since the start of this server
	Fits     bool      // its pepper is that of the keys, or was at an earlier moment; neither this nor Pepper: the store is new and takes no writes
	Adopted  bool      // the store had one of its older peppers at first, and now has its current one
	Answered time.Time // when the store, or a part of it, last did; zero: never
	Silent   error     // why the store, or a part of it, does not answer; nil while all does
	Pepper   error     // what is wrong with it at this moment: ErrPepper or a *CorruptError
	Emptied  bool      // the store is not the one that it was
	Unseen   error     // why an emptied store, or one that drops keys, would go unnoticed
	Writes   error     // why the store, or a part of it, takes none
	Refuses  bool      // no part of it has taken any for longer than a failover takes
	Evicts   string    // the policy by which it drops keys when its memory is full; "" for noeviction, or if it does not say
}

// unvouched is why the store's word that there is no such key does not count.
func (s State) unvouched() error {
	switch {
	case !s.Reached, !s.Fits && s.Pepper == nil:
		return errNotReached
	case s.Pepper != nil:
		return fmt.Errorf("%w: %w", ErrUnvouched, s.Pepper)
	case s.Emptied:
		return ErrEmptied
	}
	return nil
}

// Options say how a Standing asks. The zero value of each field means its default.
type Options struct {
	Timeout time.Duration    // of a question that look-ups wait for; default 80 ms
	Now     func() time.Time // default: the machine's
	// Emptied is told when the store is found emptied. It must not block.
	Emptied func()
}

// Standing is how one server stands to its store: whether it has reached it, whether its pepper is
// that of the keys, whether the store is still the one that it was, and whether it takes writes. It
// is safe for concurrent use.
type Standing struct {
	store *store.Store
	checks
	hasher  *keys.Hasher
	options Options
	marks   []string
	wait    time.Duration // claimWait, but for tests

	mu       sync.Mutex // one look at a time
	judged   bool
	pepper   string   // the check that was judged last
	adopt    bool     // it is that of an older pepper, and is to give way to the current one
	known    []memory // of each mark
	looks    int
	unseen   error     // why the store did not say what it does when its memory is full
	writable time.Time // when the store, or a part of it, last took writes; zero: never

	state    atomic.Pointer[State]
	expected atomic.Pointer[expectation]
	rounds   []round // by mark
}

// memory is what a server remembers of a mark.
type memory struct {
	id   string // "" until it was seen
	good int64  // Unix ms of the store's clock at which it last stood there
	gone bool
}

// expectation is what stands in a store whose word counts.
type expectation struct {
	pepper string
	ids    []string // by mark; "" for one that could not be read yet
}

// New returns a Standing of a server with this Hasher, which has not reached the store yet.
func New(client redis.UniversalClient, h *keys.Hasher, o Options) *Standing {
	s := store.New(client)
	if o.Timeout <= 0 {
		o.Timeout = 80 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Emptied == nil {
		o.Emptied = func() {}
	}
	marks := marksOf(s)
	w := &Standing{store: s, checks: checks{client}, hasher: h, options: o, marks: marks, wait: claimWait, known: make([]memory, len(marks)), rounds: make([]round, len(marks))}
	w.state.Store(&State{})
	w.expected.Store(&expectation{ids: make([]string, len(marks))})
	return w
}

// State returns what was found by the last look.
func (w *Standing) State() State { return *w.state.Load() }

// Look asks the store how things stand; call it about once a second. At first contact the pepper is
// judged: the first server on an empty store says which that is, and one that has the store's among
// its older ones puts its own in the place. A server whose pepper does not fit leaves everything as
// it is. The error, which is also in the state, says that the store, or a part of it, did not
// answer.
func (w *Standing) Look(ctx context.Context) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lookOnce(ctx)
}

func (w *Standing) lookOnce(ctx context.Context) (State, error) {
	before := w.State()
	next := before
	next.Writes = nil
	err := w.lookAtPepper(ctx, &next)
	if next.Fits {
		unread := w.lookAtMarks(ctx, &next)
		// One who has the check and not the marks is no store: a node of a cluster, say, that is
		// taken for a server by itself.
		next.Reached = next.Reached && (before.Reached || unread == nil || w.knowsMark())
		err = errors.Join(err, unread)
	}
	if err == nil {
		w.lookAtEviction(ctx, &next)
	}
	next.Silent = err
	if err != nil && next.Writes == nil {
		next.Writes = before.Writes // it is not silent because it would take them again
	}
	next.Refuses = next.Writes != nil && w.options.Now().Sub(w.writable) >= writesGrace
	if next.Emptied && !before.Emptied {
		w.options.Emptied()
	}
	expected := &expectation{pepper: w.pepper, ids: make([]string, len(w.known))}
	for i := range w.known {
		expected.ids[i] = w.known[i].id
	}
	w.expected.Store(expected)
	w.state.Store(&next)
	return next, err
}

// lookAtPepper judges the check in the store if it is not the one that was judged last.
func (w *Standing) lookAtPepper(ctx context.Context, next *State) error {
	text, found, err := w.pepperText(ctx)
	switch {
	case err != nil:
		return err
	case !found && next.Pepper != nil && (next.Fits || errors.Is(next.Pepper, ErrPepper)):
		w.judged = false // what stood there was another's: it is not ours to say what comes next
		next.Answered = w.options.Now()
		return nil
	case !found:
		text, err = w.claimPepper(ctx, !next.Fits)
		if refusesWrites(err) {
			next.Reached, next.Answered, next.Writes = true, w.options.Now(), err
			return nil
		}
		if err != nil {
			return err
		}
	}
	next.Reached, next.Answered = true, w.options.Now()
	if !w.judged || text != w.pepper {
		w.adopt = false
		fit, older, err := judgePepper(text, w.hasher)
		switch {
		case err != nil:
			next.Pepper = err
		case !fit:
			next.Pepper = ErrPepper
		default:
			w.adopt = older && !next.Fits // later it is the next rollout that has come first
			next.Fits, next.Pepper = true, nil
		}
		w.pepper, w.judged = text, true
	}
	if !w.adopt {
		return nil
	}
	text = newPepperCheck(w.hasher)
	if err := w.client.Set(ctx, pepperKey, text, 0).Err(); refusesWrites(err) {
		return nil // the marks tell of it
	} else if err != nil {
		return fmt.Errorf("keys: note the pepper: %w", store.ReadError(ctx, "", err))
	}
	w.pepper, w.adopt, next.Adopted = text, false, true
	return nil
}

// claimPepper says that the pepper of a store without a check is the Hasher's, unless somebody else
// was faster, and returns the check that stands there then. With wait it gives those time who may
// know better.
func (w *Standing) claimPepper(ctx context.Context, wait bool) (text string, err error) {
	if wait {
		if err := w.waitForOthers(ctx); err != nil {
			return "", err
		}
	}
	err = w.client.SetArgs(ctx, pepperKey, newPepperCheck(w.hasher), redis.SetArgs{Mode: "NX"}).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("keys: note the pepper: %w", store.ReadError(ctx, "", err))
	}
	text, _, err = w.pepperText(ctx)
	return text, err
}

// waitForOthers waits until servers that listen for changes have seen that the store is empty. A
// store that is new has none.
func (w *Standing) waitForOthers(ctx context.Context) error {
	listeners, err := w.store.PublishHeartbeat(ctx)
	if err != nil {
		return fmt.Errorf("keys: look for other servers: %w", store.ReadError(ctx, "", err))
	}
	if listeners == 0 {
		return nil
	}
	end := time.NewTimer(w.wait)
	defer end.Stop()
	tick := time.NewTicker(claimPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("keys: store: %w", ctx.Err())
		case <-end.C:
			return nil
		case <-tick.C:
			if _, found, err := w.pepperText(ctx); found || err != nil {
				return err
			}
		}
	}
}

// lookAtMarks compares the marks with those that are remembered, and sees whether the store takes
// writes.
func (w *Standing) lookAtMarks(ctx context.Context, next *State) error {
	var errs []error
	answered, takes := false, false // takes: one node at least takes writes
	next.Emptied, next.Unseen = false, w.unseen
	for i, s := range w.lookAt(ctx, w.marks) {
		if s.err == nil && w.known[i].id == "" && !s.there {
			s = w.claim(ctx, w.marks[i])
		}
		switch {
		case redis.HasErrorPrefix(s.err, "NOPERM"):
			next.Unseen = s.err
		case s.err != nil && refusesWrites(s.err):
			next.Writes = s.err
		case s.err != nil:
			errs = append(errs, s.err)
		case s.there && s.mark.id == "" && w.known[i].id == "":
			next.Unseen = &keys.CorruptError{ID: w.marks[i], Err: errors.New("it is not a mark")}
		default:
			answered, takes = true, takes || s.write == nil
			w.known[i].compare(s)
		}
		if s.write != nil {
			next.Writes = s.write
		}
		next.Emptied = next.Emptied || w.known[i].gone
	}
	now := w.options.Now()
	if answered {
		next.Answered = now
	}
	if takes {
		w.writable = now
	}
	return errors.Join(errs...)
}

func (w *Standing) knowsMark() bool {
	return slices.ContainsFunc(w.known, func(m memory) bool { return m.id != "" })
}

// compare takes in what was seen of a mark.
func (m *memory) compare(s sight) {
	switch {
	case m.id == "", s.mark.id == m.id, s.mark.id != "" && s.mark.accepted >= m.good:
		*m = memory{id: s.mark.id, good: s.at}
	default:
		m.gone = true
	}
}

// Refilled says that the keys which the server answers for are in the emptied store again: it goes
// on with it as it is.
func (w *Standing) Refilled(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.known)
	_, err := w.lookOnce(ctx)
	return err
}

// lookAtEviction asks now and then what the store does when its memory is full. One that does not
// know that question is taken for one that keeps all.
func (w *Standing) lookAtEviction(ctx context.Context, next *State) {
	if w.looks++; w.looks%evictionEvery == 1 {
		next.Evicts, w.unseen = w.evicts(ctx)
		next.Unseen = errors.Join(next.Unseen, w.unseen)
	}
}

// evicts returns the policy of a server that drops keys, "" if none does. The error is that of a
// user who may not ask.
func (s checks) evicts(ctx context.Context) (policy string, err error) {
	ask := func(ctx context.Context, c redis.Cmdable) (string, error) {
		text, err := c.Info(ctx, "memory").Result()
		if redis.HasErrorPrefix(err, "NOPERM") {
			return "", err
		}
		_, rest, _ := strings.Cut(text, "maxmemory_policy:")
		policy, _, _ := strings.Cut(rest, "\r\n")
		if policy == "noeviction" {
			return "", nil
		}
		return policy, nil
	}
	nodes, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return ask(ctx, s.client)
	}
	var mu sync.Mutex
	_ = nodes.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		found, denied := ask(ctx, node)
		mu.Lock()
		defer mu.Unlock()
		policy, err = max(policy, found), errors.Join(err, denied)
		return nil
	})
	return policy, err
}

// Vouch makes sure that the store may be believed that it has nothing under a Redis key, which it
// has just said: that it is still the store that it was, and that its keys are hashed with a pepper
// of the server. Errors are an ErrUnvouched, or say that the store did not answer.
func (w *Standing) Vouch(ctx context.Context, key string) error {
	if err := w.State().unvouched(); err != nil {
		return err
	}
	i := 0
	if len(w.marks) > 1 {
		i = slotOf(key) * len(w.marks) / slots
	}
	return w.rounds[i].join(ctx, func() error { return w.ask(i) })
}

// ask reads what must stand there, and looks closer if it does not. In a cluster that is the mark
// alone: a node with the pepper's check that is away must not keep the others from answering.
func (w *Standing) ask(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.options.Timeout)
	defer cancel()
	want := w.expected.Load()
	var pepper, mark *redis.StringCmd
	var gets []*redis.StringCmd
	if len(w.marks) == 1 {
		pepper = redis.NewStringCmd(ctx, "get", pepperKey)
		gets = append(gets, pepper)
	}
	if want.ids[i] != "" {
		mark = redis.NewStringCmd(ctx, "get", w.marks[i])
		gets = append(gets, mark)
	}
	if len(gets) == 0 {
		return nil
	}
	_, _ = w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, get := range gets {
			_ = p.Process(ctx, get) // it only queues
		}
		return nil
	}) // each has its own error: connect.Open sees to that
	for _, get := range gets {
		if err := get.Err(); err != nil && !errors.Is(err, redis.Nil) && !store.IsWrongType(err) {
			return store.ReadError(ctx, "", err)
		}
	}
	if (pepper == nil || pepper.Val() == want.pepper) && (mark == nil || parseMark(mark.Val()).id == want.ids[i]) {
		return nil
	}
	state, err := w.Look(ctx)
	if unvouched := state.unvouched(); unvouched != nil {
		return unvouched
	}
	return err
}

// round lets those share a question who ask it at the same time, provided that it is put after each
// of them has asked.
type round struct {
	mu      sync.Mutex
	next    *question
	running bool
}

type question struct {
	done chan struct{} // closed when err is known
	err  error
}

// join returns what ask says when it is next called, or that ctx has ended.
func (r *round) join(ctx context.Context, ask func() error) error {
	r.mu.Lock()
	if r.next == nil {
		r.next = &question{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = true
		go r.run(ask)
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return fmt.Errorf("keys: store: %w", ctx.Err())
	}
}

func (r *round) run(ask func() error) {
	for {
		r.mu.Lock()
		q := r.next
		r.next, r.running = nil, q != nil
		r.mu.Unlock()
		if q == nil {
			return
		}
		q.err = ask()
		close(q.done)
	}
}
