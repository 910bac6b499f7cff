package usage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// Today is what was done with a key today, for programs as JSON and for people as a String.
type Today struct {
	row
	reasons []usage.Row
}

// OfToday reads what was done with a key on the day that now is in.
func OfToday(ctx context.Context, c redis.UniversalClient, k *keys.Key, now time.Time) (*Today, error) {
	q := ledger.Question{APIs: []string{k.API}, Key: k.ID, By: usage.ByRoute, From: usage.DayOf(now).Hour(0), To: usage.DayOf(now)}
	all, err := ledger.NewReader(c).Ask(ctx, q)
	if err != nil {
		return nil, err
	}
	q.By = usage.ByReason
	reasons, err := ledger.NewReader(c).Ask(ctx, q)
	if err != nil {
		return nil, err
	}
	return &Today{rowOf(usage.ByRoute, "", &all.Total), reasons.Rows("")}, nil
}

// String says it in a line.
func (t *Today) String() string {
	if *t.Allowed+*t.Denied == 0 {
		return "nothing was counted"
	}
	var why, shadows []string
	shadowed := uint64(0)
	for _, r := range t.reasons {
		if reason, shadow := usage.CutShadow(r.Name); shadow {
			shadows = append(shadows, fmt.Sprintf("%s %d", reason, r.Denied))
			shadowed += r.Denied
		} else {
			why = append(why, fmt.Sprintf("%s %d", reason, r.Denied))
		}
	}
	text := fmt.Sprintf("%d allowed, %d denied", *t.Allowed, *t.Denied)
	if len(why) > 0 {
		text += " (" + strings.Join(why, ", ") + ")"
	}
	text += fmt.Sprintf(", %d units of cost; ", *t.CostUnits)
	if shadowed > 0 {
		text += fmt.Sprintf("%d by shadow_mode alone (%s); ", shadowed, strings.Join(shadows, ", "))
	}
	switch {
	case *t.Allowed == 0:
		return strings.TrimSuffix(text, "; ")
	case t.Log == nil:
		return text + NoLog
	}
	return text + fmt.Sprintf("%s observed: %s with 5xx, %.0f ms on average", share(*t.Observed, *t.Allowed), share(t.Log.Status5xx, *t.Observed), t.Log.MeanMS)
}
