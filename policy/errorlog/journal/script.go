package journal

import (
	"context"
	_ "embed"
	"errors"
	"time"

	"tollgate/policy"
)

//go:embed append.lua
var appendSource string

//go:embed giveback.lua
var backSource string

// What append.lua says of an entry.
const (
	appended       = 0
	appendedBefore = 1
	tooMany        = 2
	noRoom         = 3
	broken         = -1
)

// errReply says that Redis has answered what no script does.
var errReply = errors.New("the store's answer cannot be read")

// keep returns how long an API's entries are kept, in ms.
func (w *Writer) keep(api string) int64 {
	days := policy.DefaultErrorLog().Days
	if w.options.Days != nil {
		days = max(w.options.Days(api), 1)
	}
	return int64(days) * (24 * time.Hour).Milliseconds()
}

func (w *Writer) offset() int64 {
	if w.options.Offset == nil {
		return 0
	}
	return w.options.Offset().Milliseconds()
}

// appendOnce runs append.lua, and returns what it says of each entry, and which lists are to be
// given back.
func (w *Writer) appendOnce(ctx context.Context, api string, part []*entry) (statuses []int64, back []string, err error) {
	b, again := w.options.Bounds, 0
	keys := []string{indexKey(api), sizesKey(api)}
	for _, e := range part {
		keys = append(keys, listKey(api, e.member))
		if e.again {
			again = perScript
		}
	}
	args := []any{
		w.keep(api), b.Entries, b.Bytes, b.high(), perEntry, perList,
		(time.Second / time.Duration(b.PerSecond)).Milliseconds(), burst.Milliseconds(), again, w.offset(),
	}
	for _, e := range part {
		args = append(args, e.member, e.text)
	}
	reply, err := w.append.Run(ctx, w.client, keys, args...).Slice()
	if err != nil {
		return nil, nil, err
	}
	if len(reply) != 2 {
		return nil, nil, errReply
	}
	list, ok1 := reply[0].([]any)
	members, ok2 := reply[1].([]any)
	if !ok1 || !ok2 || len(list) != len(part) {
		return nil, nil, errReply
	}
	for _, v := range list {
		status, ok := v.(int64)
		if !ok {
			return nil, nil, errReply
		}
		statuses = append(statuses, status)
	}
	for _, v := range members {
		member, ok := v.(string)
		if !ok {
			return nil, nil, errReply
		}
		back = append(back, member)
	}
	return statuses, back, nil
}

// giveBack deletes lists that have not been appended to for longest.
func (w *Writer) giveBack(ctx context.Context, api string, members []string) error {
	keys := []string{indexKey(api), sizesKey(api)}
	args := []any{w.keep(api), w.options.Bounds.low(), w.offset()}
	for _, member := range members {
		keys, args = append(keys, listKey(api, member)), append(args, member)
	}
	n, err := w.back.Run(ctx, w.client, keys, args...).Int()
	if err == nil {
		w.stats.givenBack.Add(uint64(max(n, 0)))
	}
	return err
}
