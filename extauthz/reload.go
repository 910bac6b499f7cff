package extauthz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy"
)

// Policies holds the policy set in force and follows its files. A reload builds
// the complete new set and then swaps one pointer; files that are refused leave
// the old set in force.
type Policies struct {
	path    string
	log     *slog.Logger
	metrics *Metrics
	current atomic.Pointer[policy.Set]

	mu      sync.Mutex // guards what follows
	seen    []byte     // digest of the files that were last compiled, nil if they could not be read
	loaded  time.Time
	refused error     // why the files on disk are not in force
	told    time.Time // when refused was last logged
}

// LoadPolicies loads the policy file or directory at path; the first load must
// succeed.
func LoadPolicies(path string, log *slog.Logger, m *Metrics) (*Policies, error) {
	p := &Policies{path: path, log: log, metrics: m}
	p.Refresh(time.Now())
	if p.current.Load() == nil {
		return nil, p.refused
	}
	return p, nil
}

// FixedPolicies holds a set that never changes.
func FixedPolicies(set *policy.Set, m *Metrics) *Policies {
	p := &Policies{log: slog.New(slog.DiscardHandler), metrics: m, loaded: time.Now()}
	p.current.Store(set)
	m.policyAPIs.Set(float64(len(set.APIs())))
	return p
}

// Current returns the set in force.
func (p *Policies) Current() *policy.Set { return p.current.Load() }

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
// seen, and keeps complaining about files that are refused.
func (p *Policies) Refresh(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	files, err := policy.ReadFiles(p.path)
	if err != nil {
		p.seen = nil
		p.refuse(err, now)
		return
	}
	sum := digest(files)
	if bytes.Equal(sum, p.seen) {
		if p.refused != nil {
			p.refuse(p.refused, now)
		}
		return
	}
	p.seen = sum
	set, err := policy.Compile(files...)
	if err != nil {
		p.refuse(err, now)
		return
	}
	p.current.Store(set)
	p.loaded, p.refused = now, nil
	p.metrics.policyLoads.WithLabelValues("ok").Inc()
	p.metrics.policyRejected.Set(0)
	p.metrics.policyAPIs.Set(float64(len(set.APIs())))
	p.log.Info("policy loaded", slog.String("path", p.path), slog.Int("apis", len(set.APIs())))
}

func (p *Policies) refuse(err error, now time.Time) {
	p.metrics.policyLoads.WithLabelValues("rejected").Inc()
	p.metrics.policyRejected.Set(1)
	news := p.refused == nil || p.refused.Error() != err.Error()
	p.refused = err
	if p.current.Load() == nil {
		return // LoadPolicies returns it
	}
	if news || now.Sub(p.told) >= repeatComplaint {
		p.told = now
		p.log.Error("policy refused; the one before it stays in force",
			slog.String("path", p.path), slog.Any("error", err))
	}
}

func digest(files []policy.File) []byte {
	h := sha256.New()
	for _, f := range files {
		sum := sha256.Sum256(f.Data)
		h.Write([]byte(f.Name))
		h.Write(sum[:])
	}
	return h.Sum(nil)
}
