package journal

import (
	"context"
	"slices"
	"time"

	"tollgate/policy/errorlog"
)

// Follower tells what is new of what a Question asks for. One goroutine uses it.
type Follower struct {
	reader   *Reader
	question Question
	last     time.Time         // of the list that was appended to last, by Redis' clock
	seen     map[string]string // the last entry of each list that was read
}

// followSlack is how long after a list was read another one may turn up with an earlier time: of
// entries that came in the same moment.
const followSlack = time.Second

// Follow returns a Follower. Most of the question does not count.
func (r *Reader) Follow(q Question) *Follower {
	return &Follower{reader: r, question: q, seen: map[string]string{}}
}

// Next returns what there is, and from then on what has come since it was last called, by time.
func (f *Follower) Next(ctx context.Context) ([]errorlog.Entry, error) {
	entries, err := f.next(ctx)
	byTime(entries)
	return entries, err
}

func (f *Follower) next(ctx context.Context) (entries []errorlog.Entry, err error) {
	q := f.question
	since := f.last
	if !since.IsZero() {
		since = since.Add(clockSlack - followSlack) // lists takes off the slack of other clocks
	}
	lists, err := f.reader.lists(ctx, q.API, since)
	if err != nil {
		return nil, err
	}
	if q.Key != "" {
		lists = slices.DeleteFunc(lists, func(l list) bool { return l.member != q.Key })
	}
	for part := range slices.Chunk(lists, readPart) {
		texts, err := f.reader.read(ctx, q.API, part)
		if err != nil {
			return nil, err
		}
		for i, l := range part {
			entries = append(entries, f.fresh(l.member, texts[i])...)
			if l.last.After(f.last) {
				f.last = l.last
			}
		}
	}
	return entries, nil
}

// fresh returns what stands behind the entry that was seen last: all of the list, if that is gone.
func (f *Follower) fresh(member string, texts []string) (entries []errorlog.Entry) {
	if len(texts) == 0 {
		return nil
	}
	from := 0
	if i := slices.Index(texts, f.seen[member]); i >= 0 {
		from = i + 1
	}
	f.seen[member] = texts[len(texts)-1]
	for _, text := range texts[from:] {
		if e, err := entryOf(f.question.API, member, text); err == nil && f.question.wants(&e) {
			entries = append(entries, e)
		}
	}
	return entries
}
