package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Serve runs each Job of in and writes its Result to out, one JSON value a line,
// until in ends. A job that cannot be run ends it.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	g := &generator{checkers: map[string]*checker{}, logs: map[string]*accessLog{}}
	defer g.close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var j Job
		if err := json.Unmarshal(lines.Bytes(), &j); err != nil {
			return fmt.Errorf("job: %w", err)
		}
		result, err := g.run(ctx, &j)
		if err != nil {
			return fmt.Errorf("job: %w", err)
		}
		if err := json.NewEncoder(out).Encode(result); err != nil {
			return err
		}
	}
	return lines.Err()
}

// generator keeps what jobs share: connections, and the secrets of the last file.
type generator struct {
	checkers map[string]*checker
	logs     map[string]*accessLog // by address
	file     string
	keys     int
	secrets  [][]byte
}

func (g *generator) close() {
	for _, l := range g.logs {
		l.close()
	}
	for _, c := range g.checkers {
		_ = c.close() // nobody waits for these connections any more
	}
}

// caller makes one call with the parts of a request.
type caller interface {
	call(ctx context.Context, caller int, request [3][]byte, a *answer) error
}

func (g *generator) run(ctx context.Context, j *Job) (*Result, error) {
	if err := j.check(); err != nil {
		return nil, err
	}
	t, err := newTemplate(j)
	if err != nil {
		return nil, err
	}
	if g.file != j.Secrets || g.keys != j.Keys {
		if g.secrets, err = secrets(j); err != nil {
			return nil, err
		}
		g.file, g.keys = j.Secrets, j.Keys
	}
	r := &run{Job: j, template: t, secrets: g.secrets, lastUsed: make([]atomic.Int32, len(g.secrets))}
	if j.Protocol == HTTP {
		requests := newRequester(j.Address, j.Callers)
		defer requests.close()
		r.target = requests
	} else if r.target, err = g.checker(j); err != nil {
		return nil, err
	}
	if r.log, err = g.accessLog(j); err != nil {
		return nil, err
	}
	if j.Once {
		return r.once(ctx)
	}
	return r.repeat(ctx)
}

// accessLog is the log of a job, which goes on after it as Envoy's does.
func (g *generator) accessLog(j *Job) (*accessLog, error) {
	if l := g.logs[j.Address]; l != nil || j.LogEntry == "" {
		return l, nil
	}
	l, err := openAccessLog(j)
	if err == nil {
		g.logs[j.Address] = l
	}
	return l, err
}

func (g *generator) checker(j *Job) (*checker, error) {
	name := fmt.Sprint(j.Address, " ", j.Connections)
	if c := g.checkers[name]; c != nil {
		return c, nil
	}
	c, err := dialChecker(j.Address, j.Connections)
	if err == nil {
		g.checkers[name] = c
	}
	return c, err
}

// run is one job under way.
type run struct {
	*Job
	target   caller
	template *template
	log      *accessLog // nil for none
	secrets  [][]byte
	begin    time.Time      // of the measurement
	lastUsed []atomic.Int32 // by secret: the second of the measurement, from 1
}

// share is what one caller has measured.
type share struct {
	Result
	latencies Histogram
	answer    answer
}

func (r *run) send(ctx context.Context, who, key int, a *answer) error {
	return r.target.call(ctx, who, [3][]byte{r.template.before, r.secrets[key], r.template.after}, a)
}

// repeat runs the callers until the time is over.
func (r *run) repeat(ctx context.Context) (*Result, error) {
	r.begin = time.Now()
	ctx, cancel := context.WithDeadline(ctx, r.begin.Add(r.Duration))
	defer cancel()
	var due chan time.Time
	var work sync.WaitGroup
	if r.Rate > 0 {
		due = make(chan time.Time, r.Callers)
		work.Go(func() { pace(ctx, r.Rate, due) })
	}
	shares := make([]share, r.Callers)
	for who := range shares {
		work.Go(func() { r.caller(ctx, who, due, &shares[who]) })
	}
	work.Wait()
	return r.sum(shares, time.Since(r.begin)), nil
}

// caller calls until ctx ends. Calls outlive ctx and count: the server has spent
// time on them.
func (r *run) caller(ctx context.Context, who int, due <-chan time.Time, s *share) {
	choice := newChoice(r.Job, who, len(r.secrets))
	calls := context.WithoutCancel(ctx)
	s.answer.log = r.log
	for ctx.Err() == nil {
		start := time.Now()
		if due != nil {
			select {
			case start = <-due:
			case <-ctx.Done():
				return
			}
		}
		key := choice.next()
		err := r.send(calls, who, key, &s.answer)
		end := time.Now()
		s.note(err, end.Sub(start))
		second := int32(end.Sub(r.begin)/time.Second) + 1
		if r.lastUsed[key].Swap(second) != second {
			s.KeySeconds++
		}
	}
}

func (s *share) note(err error, took time.Duration) {
	s.Calls++
	s.latencies.Add(took)
	if err != nil {
		s.Failed++
		s.Failure = err.Error()
		return
	}
	if s.answer.allowed {
		s.Allowed++
	} else {
		s.Denied++
	}
	if s.answer.status != 0 {
		if s.Statuses == nil {
			s.Statuses = map[int]uint64{}
		}
		s.Statuses[s.answer.status]++
	}
}

// sum adds up the shares of all callers.
func (r *run) sum(shares []share, took time.Duration) *Result {
	total, latencies := &Result{Statuses: map[int]uint64{}, Took: took}, &Histogram{}
	for i := range shares {
		s := &shares[i]
		total.Calls += s.Calls
		total.Allowed += s.Allowed
		total.Denied += s.Denied
		total.Failed += s.Failed
		total.KeySeconds += s.KeySeconds
		if s.Failure != "" {
			total.Failure = s.Failure
		}
		for status, n := range s.Statuses {
			total.Statuses[status] += n
		}
		latencies.Merge(&s.latencies)
	}
	total.P50, total.P99, total.P999 = latencies.Quantile(.5), latencies.Quantile(.99), latencies.Quantile(.999)
	return total
}

// attempts is how often Once tries to get an answer about one secret.
const attempts = 5

// once sends each secret once. The last answer is returned if there is one secret.
func (r *run) once(ctx context.Context) (*Result, error) {
	r.begin = time.Now()
	var next atomic.Int64
	var work sync.WaitGroup
	shares := make([]share, r.Callers)
	for who := range shares {
		work.Go(func() {
			s := &shares[who]
			s.answer.keep, s.answer.log = len(r.secrets) == 1, r.log
			for key := int(next.Add(1)) - 1; key < len(r.secrets) && ctx.Err() == nil; key = int(next.Add(1)) - 1 {
				start, err := time.Now(), errors.New("not sent")
				for range attempts {
					if err = r.send(ctx, who, key, &s.answer); err == nil && s.answer.status < 500 {
						break
					}
				}
				s.note(err, time.Since(start))
			}
		})
	}
	work.Wait()
	total := r.sum(shares, time.Since(r.begin))
	for i := range shares {
		if shares[i].Calls > 0 && shares[i].answer.keep {
			total.Reply = shares[i].answer.raw
		}
	}
	return total, ctx.Err()
}
