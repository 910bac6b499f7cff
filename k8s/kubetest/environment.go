//go:build linux

package kubetest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// environment returns the variables of the container's processes.
func (c *container) environment(image *Image) ([]string, error) {
	ctx := c.pod.ctx
	out := slices.Concat([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + c.pod.object.Name,
		"KUBERNETES_SERVICE_HOST=" + hostAddress, "KUBERNETES_SERVICE_PORT=6443"}, image.Env)
	for _, from := range c.spec.EnvFrom {
		data, err := c.all(ctx, &from)
		if err != nil {
			return nil, err
		}
		for name, f := range data {
			out = append(out, from.Prefix+name+"="+string(f.data))
		}
	}
	for i := range c.spec.Env {
		e := &c.spec.Env[i]
		value, err := expand(e.Value, out), error(nil)
		if e.ValueFrom != nil {
			value, err = c.value(ctx, e.ValueFrom)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		out = append(out, e.Name+"="+value)
	}
	return out, nil
}

func (c *container) all(ctx context.Context, from *core.EnvFromSource) (content, error) {
	switch {
	case from.ConfigMapRef != nil:
		return c.pod.readConfigMap(ctx, &from.ConfigMapRef.LocalObjectReference, nil, nil, from.ConfigMapRef.Optional)
	case from.SecretRef != nil:
		return c.pod.readSecret(ctx, from.SecretRef.Name, nil, nil, from.SecretRef.Optional)
	}
	return nil, nil
}

func (c *container) value(ctx context.Context, from *core.EnvVarSource) (string, error) {
	one := func(all content, err error, key string, optional *bool) (string, error) {
		f, ok := all[key]
		if err == nil && !ok && (optional == nil || !*optional) {
			err = fmt.Errorf("couldn't find key %s", key)
		}
		return string(f.data), err
	}
	switch {
	case from.SecretKeyRef != nil:
		all, err := c.pod.readSecret(ctx, from.SecretKeyRef.Name, nil, nil, from.SecretKeyRef.Optional)
		return one(all, err, from.SecretKeyRef.Key, from.SecretKeyRef.Optional)
	case from.ConfigMapKeyRef != nil:
		all, err := c.pod.readConfigMap(ctx, &from.ConfigMapKeyRef.LocalObjectReference, nil, nil, from.ConfigMapKeyRef.Optional)
		return one(all, err, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional)
	case from.FieldRef != nil:
		return c.pod.field(from.FieldRef.FieldPath)
	case from.ResourceFieldRef != nil:
		return c.resource(from.ResourceFieldRef)
	}
	return "", fmt.Errorf("this node knows no value from %v", from)
}

// field returns what a path of the downward API means.
func (p *pod) field(path string) (string, error) {
	o := p.object
	if m := regexp.MustCompile(`^metadata\.(labels|annotations)\['(.*)'\]$`).FindStringSubmatch(path); m != nil {
		return map[string]map[string]string{"labels": o.Labels, "annotations": o.Annotations}[m[1]][m[2]], nil
	}
	value, ok := map[string]string{
		"metadata.name": o.Name, "metadata.namespace": o.Namespace, "metadata.uid": string(o.UID), "spec.nodeName": nodeName,
		"spec.serviceAccountName": o.Spec.ServiceAccountName, "status.podIP": p.address, "status.podIPs": p.address, "status.hostIP": hostAddress,
	}[path]
	if !ok {
		return "", fmt.Errorf("this node knows no field %s", path)
	}
	return value, nil
}

// resource returns a request or limit, in units of its divisor.
func (c *container) resource(s *core.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(s.Resource, ".")
	list := map[string]core.ResourceList{"limits": c.spec.Resources.Limits, "requests": c.spec.Resources.Requests}[kind]
	quantity, ok := list[core.ResourceName(name)]
	if !ok {
		return "", fmt.Errorf("the container has no %s", s.Resource)
	}
	divisor := s.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	return fmt.Sprint((quantity.MilliValue() + divisor.MilliValue() - 1) / divisor.MilliValue()), nil
}

// expand replaces $(NAME) by a variable, and $$ by $. A name that nothing sets stays.
func expand(text string, environment []string) string {
	reference := regexp.MustCompile(`\$\$|\$\([A-Za-z_.-][A-Za-z0-9_.-]*\)`)
	return reference.ReplaceAllStringFunc(text, func(m string) string {
		if m == "$$" {
			return "$"
		}
		name := m[2 : len(m)-1]
		for _, v := range slices.Backward(environment) {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return m
	})
}

// Host is what a container finds whose programs are those of this machine, as redis-server is.
func Host(entrypoint ...string) Image {
	files := map[string]string{}
	for _, folder := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		if _, err := os.Stat(folder); err == nil {
			files[folder] = folder
		}
	}
	return Image{Files: files, Entrypoint: entrypoint}
}
