//go:build linux

package kubetest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probe asks the container's probes until ctx ends: first the startup probe alone.
func (c *container) probe(ctx context.Context) {
	liveness, readiness := c.spec.LivenessProbe, c.spec.ReadinessProbe
	begin := func() {
		c.started.Store(true)
		if readiness == nil {
			c.ready.Store(true)
		} else {
			go c.repeat(ctx, readiness, false, func(ok bool) { c.ready.Store(ok) })
		}
		if liveness != nil {
			go c.repeat(ctx, liveness, true, func(ok bool) {
				if !ok {
					c.unhealthy.Store(true)
				}
			})
		}
	}
	if c.spec.StartupProbe == nil {
		begin()
		return
	}
	go func() {
		starting, stop := context.WithCancel(ctx)
		defer stop()
		c.repeat(starting, c.spec.StartupProbe, false, func(ok bool) {
			stop()
			if ok {
				begin()
			} else {
				c.unhealthy.Store(true)
			}
		})
	}()
}

// repeat asks a probe again and again, and reports its answer when it has given it often enough.
func (c *container) repeat(ctx context.Context, p *core.Probe, was bool, report func(ok bool)) {
	first := time.NewTimer(time.Duration(p.InitialDelaySeconds) * time.Second)
	defer first.Stop()
	tick := time.NewTicker(time.Duration(cmp.Or(p.PeriodSeconds, 10)) * time.Second)
	defer tick.Stop()
	wait, count := first.C, int32(0)
	for {
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
		wait = tick.C
		err := c.askProbe(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if (err == nil) == was {
			count = 0
			continue
		}
		count++
		needed := cmp.Or(p.SuccessThreshold, 1)
		if err != nil {
			needed = cmp.Or(p.FailureThreshold, 3)
			c.pod.node.complain("%s: probe of %s: %v", c.pod.object.Name, c.spec.Name, err)
		}
		if count >= needed {
			was, count = err == nil, 0
			report(was)
		}
	}
}

// askProbe asks once. No error is a success.
func (c *container) askProbe(ctx context.Context, p *core.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cmp.Or(p.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	switch {
	case p.HTTPGet != nil:
		return c.askHTTP(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		address, err := c.port(p.TCPSocket.Port)
		if err != nil {
			return err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	case p.Exec != nil:
		_, text, err := c.pod.node.cluster.Exec(ctx, c.pod.object.Namespace, c.pod.object.Name, c.spec.Name, nil, p.Exec.Command...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	}
	return fmt.Errorf("this node knows no such probe: %v", p)
}

func (c *container) askHTTP(ctx context.Context, get *core.HTTPGetAction) error {
	address, err := c.port(get.Port)
	if err != nil {
		return err
	}
	if get.Scheme == core.URISchemeHTTPS {
		return fmt.Errorf("this node knows no probe over TLS")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+get.Path, nil)
	if err != nil {
		return err
	}
	for _, h := range get.HTTPHeaders {
		r.Header.Add(h.Name, h.Value)
	}
	response, err := c.pod.node.probes.Do(r)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s answers %d", get.Path, response.StatusCode)
	}
	return nil
}

// port returns the address of a container port, which has a number or a name.
func (c *container) port(port intstr.IntOrString) (string, error) {
	if port.Type == intstr.Int {
		return net.JoinHostPort(c.pod.address, port.String()), nil
	}
	for _, p := range c.spec.Ports {
		if p.Name == port.StrVal {
			return net.JoinHostPort(c.pod.address, strconv.Itoa(int(p.ContainerPort))), nil
		}
	}
	return "", fmt.Errorf("%s has no port %s", c.spec.Name, port.StrVal)
}
