//go:build linux

package kubetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// step is how often a pod looks after its containers; refresh, after its volumes. A kubelet
// takes up to a minute and a half for the latter.
const (
	step    = 50 * time.Millisecond
	refresh = 500 * time.Millisecond
)

// pod is one that the node was given.
type pod struct {
	node    *node
	object  *core.Pod
	n       int
	dir     string
	network string
	address string

	ctx    context.Context // ends when nothing of the pod may go on
	cancel context.CancelFunc
	ending chan time.Duration
	once   sync.Once
	done   chan struct{}

	// These belong to run's goroutine.
	volumes      []*volume
	accountToken string
	waiting      string // why containers do not start
	reported     []byte
	conditions   map[core.PodConditionType]core.PodCondition
	since        meta.Time

	mu         sync.Mutex
	containers []*container // those of init first; guarded by mu
}

func newPod(n *node, object *core.Pod, count int) *pod {
	p := &pod{node: n, object: object, n: count, dir: filepath.Join(n.cluster.dir, "pods", fmt.Sprint(count)), since: meta.Now(),
		ending: make(chan time.Duration, 1), done: make(chan struct{}), conditions: map[core.PodConditionType]core.PodCondition{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// terminate asks the pod's containers to end within a time.
func (p *pod) terminate(grace time.Duration) { p.once.Do(func() { p.ending <- grace }) }

// vanish ends everything of the pod at once.
func (p *pod) vanish() {
	p.cancel()
	<-p.done
}

// gone reports whether nothing of the pod is left.
func (p *pod) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// log returns what the containers said, one after the other.
func (p *pod) log() string {
	var out strings.Builder
	files, _ := filepath.Glob(filepath.Join(p.dir, "*.log"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		fmt.Fprintf(&out, "-- %s\n%s", strings.TrimSuffix(filepath.Base(f), ".log"), text)
	}
	return out.String() + p.waiting
}

func (p *pod) run() {
	defer close(p.done)
	defer p.clear()
	err := os.MkdirAll(p.dir, 0o755)
	if err == nil {
		p.network, p.address, err = addNetwork(p.n)
	}
	if err != nil {
		p.node.complain("%s: %v", p.object.Name, err)
		return
	}
	tick := time.NewTicker(step)
	defer tick.Stop()
	var refreshed time.Time
	for {
		if time.Since(refreshed) > refresh {
			refreshed = time.Now()
			p.waiting = ""
			if err := p.openVolumes(p.ctx); err != nil {
				p.waiting = err.Error()
			}
			p.writeHosts()
		}
		if p.waiting == "" || len(p.containers) > 0 {
			p.advance()
		}
		p.report()
		select {
		case <-tick.C:
		case grace := <-p.ending:
			p.stop(grace)
			p.clear()
			// With the pod gone from its list, the node forgets this one.
			if err := p.node.forget(context.Background(), p.object); err != nil {
				p.node.complain("%s: %v", p.object.Name, err)
			}
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// advance starts and restarts what should run: containers of init one after the other, then all
// others.
func (p *pod) advance() {
	for i := range p.object.Spec.InitContainers {
		c := p.container(i, &p.object.Spec.InitContainers[i], true)
		c.advance()
		if !c.succeeded() {
			return
		}
	}
	for i := range p.object.Spec.Containers {
		p.container(len(p.object.Spec.InitContainers)+i, &p.object.Spec.Containers[i], false).advance()
	}
}

func (p *pod) container(i int, spec *core.Container, init bool) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i == len(p.containers) {
		p.containers = append(p.containers, newContainer(p, spec, init))
	}
	return p.containers[i]
}

// named returns the container of a name, or the first.
func (p *pod) named(name string) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		if !c.init && (name == "" || c.spec.Name == name) {
			return c
		}
	}
	return nil
}

// stop ends the containers, at last by force.
func (p *pod) stop(grace time.Duration) {
	limit := time.NewTimer(grace)
	defer limit.Stop()
	for _, c := range p.containers {
		c.terminate()
	}
	for _, c := range p.containers {
		if c.process == nil {
			continue
		}
		select {
		case <-c.process.done:
		case <-limit.C:
			p.node.complain("%s: %s did not end within %s", p.object.Name, c.spec.Name, grace)
			return // clear kills
		case <-p.ctx.Done():
			return
		}
	}
}

// clear removes all that the pod had but its logs.
func (p *pod) clear() {
	p.cancel()
	for _, c := range p.containers {
		c.clear()
	}
	if p.network != "" {
		_ = removeNetwork(p.network)
	}
	_ = os.RemoveAll(filepath.Join(p.dir, "volumes"))
}

func (p *pod) writeHosts() {
	text, path := p.node.hosts(p), filepath.Join(p.dir, "hosts")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return
	}
	// In place: containers have mounted this very file.
	if err := os.WriteFile(path, text, 0o644); err != nil {
		p.node.complain("%v", err)
	}
}

// report patches the pod's status when it has changed.
func (p *pod) report() {
	status := p.status()
	data, err := json.Marshal(status)
	if err != nil || bytes.Equal(data, p.reported) {
		return
	}
	path := "/api/v1/namespaces/" + p.object.Namespace + "/pods/" + p.object.Name + "/status"
	body := map[string]any{"metadata": map[string]any{"uid": p.object.UID}, "status": status}
	if p.node.cluster.Patch(p.ctx, path, body) == nil {
		p.reported = data
	}
}

func (p *pod) status() *core.PodStatus {
	s := &core.PodStatus{HostIP: hostAddress, HostIPs: []core.HostIP{{IP: hostAddress}}, PodIP: p.address, PodIPs: []core.PodIP{{IP: p.address}}, StartTime: &p.since}
	running, failed, ready, ended := 0, 0, 0, 0
	initialized := true
	for _, c := range p.containers {
		status := c.status()
		if c.init {
			s.InitContainerStatuses = append(s.InitContainerStatuses, status)
			initialized = initialized && c.succeeded()
			if c.finished() && !c.succeeded() {
				failed++
			}
			continue
		}
		s.ContainerStatuses = append(s.ContainerStatuses, status)
		switch {
		case status.State.Running != nil:
			running++
		case c.finished() && status.State.Terminated.ExitCode != 0:
			failed, ended = failed+1, ended+1
		case c.finished():
			ended++
		}
		if status.Ready {
			ready++
		}
	}
	if len(p.containers) == 0 && p.waiting != "" {
		for _, c := range p.object.Spec.Containers {
			s.ContainerStatuses = append(s.ContainerStatuses, core.ContainerStatus{Name: c.Name, Image: c.Image,
				State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "ContainerCreating", Message: p.waiting}}})
		}
	}
	all := len(p.object.Spec.Containers)
	switch {
	case failed > 0 && (ended == all || !initialized):
		s.Phase = core.PodFailed
	case ended == all:
		s.Phase = core.PodSucceeded
	case running > 0 || ended > 0 || len(s.ContainerStatuses) > 0 && initialized && len(p.containers) > 0:
		s.Phase = core.PodRunning
	default:
		s.Phase = core.PodPending
	}
	s.Conditions = []core.PodCondition{p.condition(core.PodScheduled, true), p.condition(core.PodInitialized, initialized),
		p.condition(core.ContainersReady, ready == all), p.condition(core.PodReady, ready == all)}
	return s
}

// condition says since when something is so.
func (p *pod) condition(kind core.PodConditionType, is bool) core.PodCondition {
	status := core.ConditionFalse
	if is {
		status = core.ConditionTrue
	}
	c, ok := p.conditions[kind]
	if !ok || c.Status != status {
		c = core.PodCondition{Type: kind, Status: status, LastTransitionTime: meta.Now()}
		p.conditions[kind] = c
	}
	return c
}
