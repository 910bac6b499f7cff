package extauthz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy"
	"tollgate/policy/policyfile"
)

// Policies holds the policy set in force and follows its files. A reload builds
// the complete new set and then swaps one pointer; files that are refused leave
// the old set in force.
type Policies struct {
	path    string
	log     *slog.Logger
	metrics *Metrics
	accept  func(*policy.Set) error // what else must be true of a set; nil for nothing
	current atomic.Pointer[policy.Set]

	// These belong to the goroutine that calls Refresh.
	seen []byte    // digest of the files that were last compiled, nil if they could not be read
	told time.Time // when a refusal was last logged

	mu      sync.Mutex // guards what follows
	loaded  time.Time
	refused error // why the files on disk are not in force
}

// LoadPolicies loads the policy file or directory at path; the first load must
// succeed. accept says what is wrong with a set that cannot be enforced here, and is
// nil where each can.
func LoadPolicies(path string, log *slog.Logger, m *Metrics, accept func(*policy.Set) error) (*Policies, error) {
	p := &Policies{path: path, log: log, metrics: m, accept: accept}
	p.Refresh(time.Now())
	if p.current.Load() == nil {
		return nil, p.refused
	}
	return p, nil
}

// Current returns the set in force.
func (p *Policies) Current() *policy.Set { return p.current.Load() }

// FindRoute returns what the names of an API and a route mean now, nil for what there is not.
func (p *Policies) FindRoute(api, route string) (*policy.API, *policy.Route) {
	return p.Current().Find(api, route)
}

// UsageOf returns how long usage of an API is kept: what holds by default if there is no such API.
func (p *Policies) UsageOf(api string) policy.Usage {
	if a, _ := p.Current().Find(api, ""); a != nil {
		return *a.Usage()
	}
	return policy.DefaultUsage()
}

// ErrorDays returns after how many days entries of the error log of an API are gone: what holds by
// default if there is no such API.
func (p *Policies) ErrorDays(api string) int {
	if a := p.Current().API(api); a != nil {
		return a.ErrorLog().Days
	}
	return policy.DefaultErrorLog().Days
}

// StaleFor returns how long a key of the API may be served while the store is
// away: zero if there is no such API.
func (p *Policies) StaleFor(api string) time.Duration {
	for _, a := range p.Current().APIs() {
		if a.Name() == api {
			return a.StaleFor()
		}
	}
	return 0
}

// LongestStale returns the longest that a key of any API may be served while the
// store is away.
func (p *Policies) LongestStale() (longest time.Duration) {
	for _, a := range p.Current().APIs() {
		longest = max(longest, a.StaleFor())
	}
	return longest
}

// Status returns the moment of the last load and why the files now on disk are
// refused, nil if they are in force.
func (p *Policies) Status() (loaded time.Time, refused error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loaded, p.refused
}

// Follow looks at the files at every tick until the context ends. Looking at
// their content misses no rename, symbolic-link swap or network volume.
func (p *Policies) Follow(ctx context.Context, ticks <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticks:
			p.Refresh(now)
		}
	}
}

// repeatComplaint is how often refused files are logged again.
const repeatComplaint = time.Minute

// Refresh loads the files if their content has changed since they were last
// seen, and keeps complaining about files that are refused. It is called by one
// goroutine at a time; readers never wait for it.
func (p *Policies) Refresh(now time.Time) {
	files, err := policyfile.ReadFiles(p.path)
	if err != nil {
		p.seen = nil
		p.refuse(err, now)
		return
	}
	sum := digest(files)
	if bytes.Equal(sum, p.seen) {
		if _, refused := p.Status(); refused != nil {
			p.refuse(refused, now)
		}
		return
	}
	p.seen = sum
	set, err := compile(files)
	if err == nil && p.accept != nil {
		err = p.accept(set)
	}
	if err != nil {
		p.refuse(err, now)
		return
	}
	p.metrics.loaded(set, now)
	p.current.Store(set)
	p.setStatus(now, nil)
	p.log.Info("policy loaded", slog.String("path", p.path), slog.Int("apis", len(set.APIs())))
}

// compile turns a panic into a refusal: a file that meets a bug of ours must not
// end a server that has a policy in force.
func compile(files []policyfile.File) (set *policy.Set, err error) {
	defer func() {
		if p := recover(); p != nil {
			set, err = nil, fmt.Errorf("policy: internal error: %v", p)
		}
	}()
	return policyfile.Compile(files...)
}

func (p *Policies) refuse(err error, now time.Time) {
	p.metrics.policyLoads.WithLabelValues("rejected").Inc()
	p.metrics.policyRejected.Set(1)
	loaded, before := p.Status()
	p.setStatus(loaded, err)
	if p.current.Load() == nil {
		return // LoadPolicies returns it
	}
	if before == nil || before.Error() != err.Error() || now.Sub(p.told) >= repeatComplaint {
		p.told = now
		p.log.Error("policy refused; the one before it stays in force",
			slog.String("path", p.path), slog.Any("error", err))
	}
}

func (p *Policies) setStatus(loaded time.Time, refused error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded, p.refused = loaded, refused
}

func digest(files []policyfile.File) []byte {
	h := sha256.New()
	for _, f := range files {
		sum := sha256.Sum256(f.Data)
		h.Write([]byte(f.Name))
		h.Write(sum[:])
	}
	return h.Sum(nil)
}
