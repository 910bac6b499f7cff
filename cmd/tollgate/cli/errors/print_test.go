package errors

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/cmd/tollgate/cli/usage"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
)

func noon() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }

// entries are one with all fields, one with none, one of many and one of other keys.
func entries() []errorlog.Entry {
	return []errorlog.Entry{
		{Time: noon(), Key: "key_0123456789abcdef", Reason: "rate_limited", Code: 429, Route: "job", Address: "203.0.113.7", Decision: "51c0a7e94f2b83d6", Request: "r-1"},
		{Time: noon().Add(time.Second), Reason: "undecided", Decision: "51c0a7e94f2b83d7"},
		{Time: noon().Add(2 * time.Second), Handle: "key_0000000001", Reason: "unknown_key", Code: 401, Route: "job", Decision: "51c0a7e94f2b83d8", More: 7, Until: noon().Add(3 * time.Second)},
		{Time: noon().Add(3 * time.Second), Reason: "rate_limited", More: 9, Until: noon().Add(4 * time.Second), Others: true},
	}
}

func TestOutput(t *testing.T) {
	for format, want := range map[usage.Format]string{
		usage.Table: `api jobs, since 2026-11-28 12:00 UTC
TIME (UTC)           REASON                CODE  ROUTE             KEY                   ADDRESS          DECISION          REQUEST
2026-11-29 12:00:00  rate_limited          429   job               key_0123456789abcdef  203.0.113.7      51c0a7e94f2b83d6  r-1
2026-11-29 12:00:01  undecided             -     -                 -                     -                51c0a7e94f2b83d7  -
2026-11-29 12:00:02  unknown_key           401   job               (key_0000000001)      -                51c0a7e94f2b83d8  -
                     and 7 more until 12:00:03
2026-11-29 12:00:03  rate_limited          9 of other keys until 12:00:04
there are older ones: --limit; no more are kept of a key; older ones are gone; and 9 more of all keys of the API, which were too many to be told apart
`,
		usage.CSV: `time,key,unknown_key,reason,code,route,address,decision_id,request_id,more,more_until,other_keys
2026-11-29T12:00:00.000Z,key_0123456789abcdef,,rate_limited,429,job,203.0.113.7,51c0a7e94f2b83d6,r-1,0,,false
2026-11-29T12:00:01.000Z,,,undecided,,,,51c0a7e94f2b83d7,,0,,false
2026-11-29T12:00:02.000Z,,key_0000000001,unknown_key,401,job,,51c0a7e94f2b83d8,,7,2026-11-29T12:00:03.000Z,false
2026-11-29T12:00:03.000Z,,,rate_limited,,,,,,9,2026-11-29T12:00:04.000Z,true
`,
		usage.JSON: `{"about":"api jobs","since":"2026-11-28T12:00:00Z","entries":[` +
			`{"time":"2026-11-29T12:00:00Z","key":"key_0123456789abcdef","reason":"rate_limited","code":429,"route":"job","address":"203.0.113.7","decision_id":"51c0a7e94f2b83d6","request_id":"r-1"},` +
			`{"time":"2026-11-29T12:00:01Z","reason":"undecided","decision_id":"51c0a7e94f2b83d7"},` +
			`{"time":"2026-11-29T12:00:02Z","unknown_key":"key_0000000001","reason":"unknown_key","code":401,"route":"job","decision_id":"51c0a7e94f2b83d8","more":7,"more_until":"2026-11-29T12:00:03Z"},` +
			`{"time":"2026-11-29T12:00:03Z","reason":"rate_limited","more":9,"more_until":"2026-11-29T12:00:04Z","other_keys":true}],` +
			`"not_told_apart":[{"time":"2026-11-29T12:00:03Z","reason":"rate_limited","more":9,"more_until":"2026-11-29T12:00:04Z","other_keys":true}],` +
			`"cut":true,"full":true,"note":"there are older ones: --limit; no more are kept of a key; older ones are gone; and 9 more of all keys of the API, which were too many to be told apart"}
`,
	} {
		var b strings.Builder
		o := &output{w: &b, format: format}
		a := &journal.Answer{Entries: entries(), Cut: true, Full: true, Others: entries()[3:]}
		if err := o.all("api jobs", noon().Add(-24*time.Hour), a); err != nil || b.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", format, err, b.String(), want)
		}
	}
	var b strings.Builder
	o := &output{w: &b, format: usage.Table}
	if err := o.all("api jobs", noon(), &journal.Answer{}); err != nil || b.String() != "api jobs, since 2026-11-29 12:00 UTC\nnone\n" {
		t.Errorf("%v: %s", err, b.String())
	}
}

// It goes on with what comes, a line each, until it is told to end.
func TestFollow(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer c.Close()
	n := 0
	add := func() string {
		n++
		e := errorlog.Entry{Time: time.Now(), Reason: "rate_limited", Decision: fmt.Sprintf("%016d", n)}
		name := "tg:v1:errors:{jobs}:of:key_0001"
		if err := c.RPush(t.Context(), name, e.Pack()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.ZAdd(t.Context(), "tg:v1:errors:{jobs}", redis.Z{Member: "key_0001", Score: float64(time.Now().UnixMilli())}).Err(); err != nil {
			t.Fatal(err)
		}
		return e.Decision
	}
	ticks, lines := make(chan time.Time), make(chan string)
	o := &options{limit: 2, ticks: func() (<-chan time.Time, func()) { return ticks, func() {} }}
	add()
	want := []string{add(), add()} // the limit
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		f := journal.NewReader(c).Follow(journal.Question{API: "jobs", Since: time.Now().Add(-time.Hour)})
		ended <- o.followOn(ctx, f, &output{w: &lineWriter{lines: lines}, format: usage.JSON})
	}()
	for range 3 {
		for _, decision := range want {
			if line := <-lines; !strings.Contains(line, decision) {
				t.Errorf("%s, want decision %s", line, decision)
			}
		}
		want = []string{add(), add()}
		ticks <- time.Now()
	}
	for range want {
		<-lines
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	gone := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer gone.Close()
	if err := o.followOn(t.Context(), journal.NewReader(gone).Follow(journal.Question{API: "jobs"}), &output{format: usage.JSON}); err == nil {
		t.Error("no error of a store that is away")
	}
}

// lineWriter hands on each line that is written.
type lineWriter struct{ lines chan<- string }

func (w *lineWriter) Write(b []byte) (int, error) {
	w.lines <- string(b)
	return len(b), nil
}
