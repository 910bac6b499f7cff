package bench

import (
	"context"
	"fmt"
	"time"

	"tollgate/cmd/tollgate-bench/bench/load"
)

// sample is one case in one round.
type sample struct {
	checks                float64
	cpu, redis            float64 // µs per check
	p50, p99, p999        float64 // µs
	allocations, bytes    float64 // per check
	rss                   float64 // bytes
	perSecond, perKeyTime float64
}

// measure warms a server up with a job, then measures it under that job. An answer
// that the case does not expect is an error: what was measured would be something
// else.
func (b *bench) measure(ctx context.Context, c testCase, job load.Job) (*sample, error) {
	s := b.subjects[c.server]
	job.Duration = min(settle, b.Duration)
	if _, err := b.do(ctx, job); err != nil {
		return nil, err
	}
	before, err := s.before(ctx)
	if err != nil {
		return nil, err
	}
	job.Duration, job.Seed = b.Duration, job.Seed+1
	result, err := b.do(ctx, job)
	if err != nil {
		return nil, err
	}
	after, err := s.after(ctx)
	if err != nil {
		return nil, err
	}
	rss, err := residentBytes(s.pid())
	if err != nil {
		return nil, err
	}
	if err := c.verify(result, before, after); err != nil {
		return nil, fmt.Errorf("case %s (%s): %w\n%s", c.id, c.name, err, s.log)
	}
	n := float64(result.Calls)
	return &sample{
		checks: n, cpu: micros(after.cpu-before.cpu) / n, redis: micros(after.redisCPU-before.redisCPU) / n,
		p50: micros(result.P50), p99: micros(result.P99), p999: micros(result.P999),
		allocations: (after.mallocs - before.mallocs - before.scrapeMallocs) / n,
		bytes:       (after.allocated - before.allocated - before.scrapeBytes) / n,
		rss:         rss, perSecond: result.PerSecond(),
		perKeyTime: (after.spends - before.spends) / float64(max(result.KeySeconds, 1)),
	}, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// verify compares what the callers were told, and what the server says of its
// decisions, with what the case expects.
func (c testCase) verify(r *load.Result, before, after *reading) error {
	allow := c.reason == "" || c.reason == "allowed"
	switch {
	case r.Calls == 0:
		return fmt.Errorf("no check was made")
	case r.Failed > 0:
		return fmt.Errorf("%d of %d checks were not answered: %s", r.Failed, r.Calls, r.Failure)
	case allow && r.Denied > 0:
		return fmt.Errorf("%d of %d checks were refused, with %v", r.Denied, r.Calls, r.Statuses)
	case !allow && r.Allowed > 0:
		return fmt.Errorf("%d of %d checks were allowed", r.Allowed, r.Calls)
	case c.reason == "":
		return nil
	}
	for reason, n := range after.decisions {
		if made := n - before.decisions[reason]; made > 0 && reason != c.reason {
			return fmt.Errorf("%v checks were decided as %s, want %s", made, reason, c.reason)
		}
	}
	if made := after.decisions[c.reason] - before.decisions[c.reason]; made != float64(r.Calls) {
		return fmt.Errorf("%v checks were decided as %s, but %d were made", made, c.reason, r.Calls)
	}
	return nil
}

// pick returns one figure of each sample.
func pick(from []sample, figure func(sample) float64) []float64 {
	list := make([]float64, len(from))
	for i, s := range from {
		list[i] = figure(s)
	}
	return list
}

func cpuOf(s sample) float64 { return s.cpu }

func redisOf(s sample) float64 { return s.redis }

// newRow summarizes the samples of a case; base are those of case a.
func newRow(c testCase, samples, base []sample) Row {
	stat := func(figure func(sample) float64) Stat { return newStat(pick(samples, figure)) }
	row := Row{
		Case: c.id, Name: c.name, CPU: stat(cpuOf), Ratio: newStat(ratios(pick(samples, cpuOf), pick(base, cpuOf))),
		RedisCPU: stat(redisOf), RedisRatio: newStat(ratios(pick(samples, redisOf), pick(base, cpuOf))),
		P50: stat(func(s sample) float64 { return s.p50 }), P99: stat(func(s sample) float64 { return s.p99 }),
		P999:        stat(func(s sample) float64 { return s.p999 }),
		Allocations: stat(func(s sample) float64 { return s.allocations }), Bytes: stat(func(s sample) float64 { return s.bytes }),
		RSS: stat(func(s sample) float64 { return s.rss }), PerSecond: stat(func(s sample) float64 { return s.perSecond }),
		Lookups: stat(func(s sample) float64 { return s.perKeyTime }),
	}
	for _, s := range samples {
		row.Checks += s.checks
	}
	return row
}

// openLoop measures a and b at a fixed rate, in turn.
func (b *bench) openLoop(ctx context.Context, rate float64) (*OpenLoop, error) {
	var p50, p99 [2][]float64
	for _, c := range cases()[:2] {
		job := b.job(c.server, c.keys)
		job.Rate, job.Callers = rate, openCallers
		if err := b.warm(ctx, job); err != nil {
			return nil, err
		}
	}
	for round := range b.OpenLoop {
		for i := range 2 {
			which := (i + round) % 2
			c := cases()[which]
			job := b.job(c.server, c.keys)
			job.Rate, job.Callers, job.Seed = rate, openCallers, uint64(round+100)
			s, err := b.measure(ctx, c, job)
			if err != nil {
				return nil, err
			}
			p50[which], p99[which] = append(p50[which], s.p50), append(p99[which], s.p99)
		}
	}
	return &OpenLoop{PerSecond: rate, Rounds: b.OpenLoop, P50A: newStat(p50[0]), P99A: newStat(p99[0]), P50B: newStat(p50[1]), P99B: newStat(p99[1]),
		Ratio: newStat(ratios(p99[1], p99[0]))}, nil
}
