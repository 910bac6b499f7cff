//go:build linux

package kubetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const nodeName = "machine"

// interval is how often the node asks for its pods.
const interval = 200 * time.Millisecond

// node is the one node of a cluster, and its scheduler.
type node struct {
	cluster *Cluster
	images  Images
	probes  *http.Client // without a proxy of this machine's environment

	mu       sync.Mutex
	pods     map[types.UID]*pod
	ended    []*pod // whose logs may still be asked for
	count    int
	services []service
	problems []string
}

// service is a name that leads to addresses, "" for the namespace that all may say.
type service struct{ namespace, name, address string }

func newNode(c *Cluster, images Images) *node {
	return &node{cluster: c, images: images, pods: map[types.UID]*pod{}, probes: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

func (n *node) register(ctx context.Context) error {
	object := &core.Node{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: meta.ObjectMeta{
		Name: nodeName, Labels: map[string]string{core.LabelHostname: nodeName, core.LabelTopologyZone: "zone-a", core.LabelOSStable: "linux"}}}
	if err := n.cluster.Post(ctx, "/api/v1/nodes", object, nil); err != nil {
		return err
	}
	object.Status = core.NodeStatus{
		Conditions:      []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: meta.Now(), LastTransitionTime: meta.Now()}},
		Addresses:       []core.NodeAddress{{Type: core.NodeInternalIP, Address: hostAddress}},
		DaemonEndpoints: core.NodeDaemonEndpoints{KubeletEndpoint: core.DaemonEndpoint{Port: kubeletPort}},
	}
	return n.cluster.Patch(ctx, "/api/v1/nodes/"+nodeName+"/status", map[string]any{"status": object.Status})
}

// run plays the node until ctx ends, and then ends all pods.
func (n *node) run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := n.sync(ctx); err != nil && ctx.Err() == nil {
				n.complain("node: %v", err)
			}
		case <-ctx.Done():
			n.mu.Lock()
			running := slices.Collect(maps.Values(n.pods))
			n.mu.Unlock()
			for _, p := range running {
				p.vanish()
			}
			return
		}
	}
}

// complain notes what a failed test should show.
func (n *node) complain(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if text := fmt.Sprintf(format, args...); len(n.problems) < 100 && !slices.Contains(n.problems, text) {
		n.problems = append(n.problems, text)
	}
}

// tell shows what became of the pods.
func (n *node) tell(t *testing.T) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.problems {
		t.Log(p)
	}
	for _, p := range slices.Concat(n.ended, slices.Collect(maps.Values(n.pods))) {
		t.Logf("the log of the pod %s/%s:\n%s", p.object.Namespace, p.object.Name, p.log())
	}
}

func (n *node) sync(ctx context.Context) error {
	var list core.PodList
	if err := n.cluster.Get(ctx, "/api/v1/pods", &list); err != nil {
		return err
	}
	here := map[types.UID]bool{}
	var faults []error
	for i := range list.Items {
		here[list.Items[i].UID] = true
		faults = append(faults, n.syncPod(ctx, &list.Items[i]))
	}
	n.mu.Lock()
	var gone []*pod
	for uid, p := range n.pods {
		if !here[uid] {
			gone = append(gone, p)
			n.ended = append(n.ended, p)
			delete(n.pods, uid)
		}
	}
	n.mu.Unlock()
	for _, p := range gone {
		p.vanish()
	}
	return errors.Join(append(faults, n.syncServices(ctx))...)
}

func (n *node) syncPod(ctx context.Context, object *core.Pod) error {
	path := "/api/v1/namespaces/" + object.Namespace + "/pods/" + object.Name
	n.mu.Lock()
	p := n.pods[object.UID]
	n.mu.Unlock()
	switch {
	case object.Spec.NodeName == "":
		err := n.cluster.Post(ctx, path+"/binding", &core.Binding{ObjectMeta: meta.ObjectMeta{Name: object.Name, Namespace: object.Namespace, UID: object.UID},
			Target: core.ObjectReference{APIVersion: "v1", Kind: "Node", Name: nodeName}}, nil)
		var status *StatusError
		if errors.As(err, &status) && (status.Code == http.StatusNotFound || status.Code == http.StatusConflict) {
			return nil // deleted meanwhile
		}
		return err
	case p == nil && object.DeletionTimestamp != nil:
		return n.forget(ctx, object)
	case p == nil && object.Status.Phase != core.PodSucceeded && object.Status.Phase != core.PodFailed:
		n.mu.Lock()
		n.count++
		p = newPod(n, object, n.count)
		n.pods[object.UID] = p
		n.mu.Unlock()
		go p.run()
	case p != nil && p.gone() && object.DeletionTimestamp != nil:
		return n.forget(ctx, object)
	case p != nil && object.DeletionTimestamp != nil:
		p.terminate(time.Duration(*cmp.Or(object.DeletionGracePeriodSeconds, new(int64))) * time.Second)
	}
	return nil
}

// forget tells the API server that nothing of a deleted pod runs any more.
func (n *node) forget(ctx context.Context, object *core.Pod) error {
	options := &meta.DeleteOptions{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, GracePeriodSeconds: new(int64),
		Preconditions: &meta.Preconditions{UID: &object.UID}}
	err := n.cluster.Delete(ctx, "/api/v1/namespaces/"+object.Namespace+"/pods/"+object.Name, options)
	if status := new(StatusError); errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil
	}
	return err
}

// syncServices learns which addresses are behind the names of Services.
func (n *node) syncServices(ctx context.Context) error {
	var list discovery.EndpointSliceList
	if err := n.cluster.Get(ctx, "/apis/discovery.k8s.io/v1/endpointslices", &list); err != nil {
		return err
	}
	var services []service
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || s.Labels[discovery.LabelServiceName] == "" {
				continue
			}
			for _, a := range e.Addresses {
				services = append(services, service{s.Namespace, s.Labels[discovery.LabelServiceName], a})
				if e.Hostname != nil {
					services = append(services, service{s.Namespace, *e.Hostname + "." + s.Labels[discovery.LabelServiceName], a})
				}
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services = services
	return nil
}

// hosts returns the hosts file of a pod.
func (n *node) hosts(p *pod) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out bytes.Buffer
	fmt.Fprintf(&out, "127.0.0.1 localhost\n%s %s\n", p.address, p.object.Name)
	for _, s := range n.services {
		full := s.name + "." + s.namespace
		names := []string{full + ".svc.cluster.local", full + ".svc", full}
		if s.namespace == p.object.Namespace {
			names = append(names, s.name)
		}
		fmt.Fprintf(&out, "%s %s\n", s.address, strings.Join(names, " "))
	}
	return out.Bytes()
}
