package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// subject is a server that is measured.
type subject struct {
	*process
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	// AuthzHTTP is the address of the server for HTTP, where it was asked for.
	AuthzHTTP string `json:"authz_http"`
	// Pprof is the address of the profiler, where it was asked for.
	Pprof string `json:"pprof"`
	// redis is its own store, nil if it has none.
	redis *redisServer
}

// startSubject starts one of this binary's servers and waits for its addresses.
func startSubject(binary, dir, name string, redis *redisServer, args ...string) (*subject, error) {
	file := filepath.Join(dir, name+".json")
	args = append(args, "--addresses-file", file)
	p, err := spawn(name, false, binary, cleanEnvironment("TOLLGATE_PEPPER="+pepper), args...)
	if err != nil {
		return nil, err
	}
	s := &subject{process: p, redis: redis}
	err = p.await(func() bool {
		data, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(data, s) == nil
	})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return s, nil
}

// figures are what a server tells of itself at /metrics.
type figures struct {
	mallocs, allocated, live float64            // objects, bytes, bytes in use
	spends                   float64            // and reads of counters, that the store was asked for
	decisions                map[string]float64 // by reason
}

// scrape reads /metrics.
func (s *subject) scrape(ctx context.Context) (*figures, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.HTTP+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.name, err, s.log)
	}
	defer res.Body.Close()
	f := &figures{decisions: map[string]float64{}}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if err := f.line(lines.Text()); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return f, lines.Err()
}

func (f *figures) line(text string) error {
	name, value, ok := strings.Cut(text, " ")
	if !ok || strings.HasPrefix(text, "#") {
		return nil
	}
	var to *float64
	switch name {
	case "go_memstats_mallocs_total":
		to = &f.mallocs
	case "go_memstats_alloc_bytes_total":
		to = &f.allocated
	case "go_memstats_alloc_bytes":
		to = &f.live
	case `tollgate_limit_spends_total{from="store"}`:
		to = &f.spends
	}
	_, reason, isDecision := strings.Cut(name, `reason="`)
	isDecision = isDecision && strings.HasPrefix(name, "tollgate_decisions_total{")
	if to == nil && !isDecision {
		return nil
	}
	number, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return fmt.Errorf("metric %s: %w", name, err)
	}
	if isDecision {
		reason, _, _ = strings.Cut(reason, `"`)
		f.decisions[reason] += number
		return nil
	}
	*to = number
	return nil
}

// reading is the state of a server and its store at one moment.
type reading struct {
	*figures
	// scrape is what reading the figures itself allocates, objects and bytes.
	scrapeMallocs, scrapeBytes float64
	cpu, redisCPU              time.Duration
}

// before reads everything, the CPU time last.
func (s *subject) before(ctx context.Context) (*reading, error) {
	first, err := s.scrape(ctx)
	if err != nil {
		return nil, err
	}
	r := &reading{}
	if r.figures, err = s.scrape(ctx); err != nil {
		return nil, err
	}
	r.scrapeMallocs, r.scrapeBytes = r.mallocs-first.mallocs, r.allocated-first.allocated
	return r, s.readCPU(r)
}

// after reads everything, the CPU time first.
func (s *subject) after(ctx context.Context) (*reading, error) {
	r := &reading{}
	if err := s.readCPU(r); err != nil {
		return nil, err
	}
	var err error
	r.figures, err = s.scrape(ctx)
	return r, err
}

func (s *subject) readCPU(r *reading) (err error) {
	if r.cpu, err = cpuTime(s.pid()); err != nil || s.redis == nil {
		return err
	}
	r.redisCPU, err = cpuTime(s.redis.pid())
	return err
}
