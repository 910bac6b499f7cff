package ledger

import (
	"context"
	_ "embed"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/usage"
)

//go:embed add.lua
var addSource string

const (
	// keyRoutes and apiRoutes are how many routes a key, and an API, are told by on a day. What
	// comes to others is told together. With 4, the hash of a day has 175 fields at most, and stays
	// in Redis' compact form.
	keyRoutes = 4
	apiRoutes = 60
	// perScript bounds a run of the script, so that Redis serves others after a fraction of a
	// millisecond, and perTrip a pipeline.
	perScript = 32
	perTrip   = 512
	// keepDays is how long after its end Redis keeps the hash of a day that nobody rolls up,
	// because no server runs.
	keepDays = 40
)

// What the script says of one addition.
const (
	added        = 0
	addedBefore  = 1
	addedPerhaps = 2
	notUsed      = 3
	noHash       = -1
)

// addition is a delta on its way.
type addition struct {
	*usage.Delta
	stamp  string // of the try that it is sent with; "" if it was not sent yet
	again  bool   // an earlier try may have added it
	err    error
	status int64
}

// add sends additions in one round trip, each with its own outcome, and another one for those that
// have met a server without the script or that the nodes of a cluster take one at a time only.
func (w *Writer) add(ctx context.Context, list []*addition) {
	for _, a := range list {
		a.err = errUnseen
	}
	verb, source := "evalsha", w.sha
	for range 3 {
		unseen, unrun := w.addOnce(ctx, list, verb, source)
		if len(unrun) == 0 {
			return
		}
		if unseen {
			verb, source = "eval", addSource
		}
		list = unrun
	}
}

func (w *Writer) addOnce(ctx context.Context, list []*addition, verb, source string) (unseen bool, unrun []*addition) {
	most := perScript
	if w.singly {
		most = 1
	}
	p := w.client.Pipeline()
	listing := w.putOnLists(ctx, p, list)
	var scripts []*redis.IntSliceCmd
	for from := 0; from < len(list); from += most {
		command := redis.NewIntSliceCmd(ctx, w.arguments(list[from:min(from+most, len(list))], verb, source)...)
		scripts = append(scripts, command)
		_ = p.Process(ctx, command) // it only queues
	}
	_, _ = p.Exec(ctx) // its error is in the commands
	w.listFailed = w.noteListed(listing)
	for i, command := range scripts {
		part := list[i*most : min((i+1)*most, len(list))]
		statuses, err := command.Result()
		switch {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			unseen = true
			unrun = append(unrun, part...)
		case redis.HasErrorPrefix(err, "CROSSSLOT"):
			w.singly = true
			unrun = append(unrun, part...)
		case err == nil && len(statuses) != len(part):
			err = errReply
			fallthrough
		default:
			for n, a := range part {
				if a.err = err; err == nil {
					a.status = statuses[n]
				}
			}
		}
	}
	return unseen, unrun
}

// arguments are those of one run of the script.
func (w *Writer) arguments(list []*addition, verb, source string) []any {
	args := append(make([]any, 0, 4+16*len(list)), verb, source, len(list))
	for _, a := range list {
		args = append(args, w.dayKey(a.Subject, a.Day))
	}
	args = append(args, w.me)
	for _, a := range list {
		stamp, routes := a.stamp, keyRoutes
		if a.again {
			stamp += "+"
		}
		if a.Key == "" && !a.Others {
			routes = apiRoutes
		}
		ends := a.Day.Start().Add((1 + keepDays) * 24 * time.Hour).UnixMilli()
		args = append(args, stamp, routes, ends, len(a.Decided), len(a.Reasons), len(a.Seen))
		for i := range a.Decided {
			h := &a.Decided[i]
			args = append(args, &h.Route, hourLetters[h.Hour.OfDay():][:1], h.Allowed, h.Denied, h.Cost)
		}
		for i := range a.Reasons {
			args = append(args, &a.Reasons[i].Reason, a.Reasons[i].N)
		}
		for i := range a.Seen {
			s := &a.Seen[i]
			args = append(args, &s.Route)
			for _, n := range s.Status {
				args = append(args, n)
			}
			args = append(args, s.BytesIn, s.BytesOut, s.Millis, s.MaxMillis, s.Slow)
		}
	}
	return args
}

const hourLetters = "abcdefghijklmnopqrstuvwx"
