//go:build linux

package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// content is what a volume holds: each file's bytes and mode.
type content map[string]file

type file struct {
	data []byte
	mode os.FileMode
}

// volume is a folder of this machine that containers mount.
type volume struct {
	name, dir string
	keep      bool // it outlives the pod
	source    *core.Volume
	shown     content
	version   int
}

// openVolumes makes the pod's volumes and fills them.
func (p *pod) openVolumes(ctx context.Context) error {
	for i := range p.object.Spec.Volumes {
		source := &p.object.Spec.Volumes[i]
		if slices.ContainsFunc(p.volumes, func(v *volume) bool { return v.name == source.Name }) {
			continue
		}
		v := &volume{name: source.Name, source: source, dir: filepath.Join(p.dir, "volumes", source.Name)}
		if c := source.PersistentVolumeClaim; c != nil {
			v.keep, v.dir = true, filepath.Join(p.node.cluster.dir, "claims", p.object.Namespace+"-"+c.ClaimName)
		}
		if err := os.MkdirAll(v.dir, 0o755); err != nil {
			return err
		}
		if source.EmptyDir != nil || v.keep {
			if err := p.own(v.dir, 0o775); err != nil {
				return err
			}
		}
		p.volumes = append(p.volumes, v)
	}
	return p.refreshVolumes(ctx)
}

// own gives a file to the pod's group.
func (p *pod) own(path string, mode os.FileMode) error {
	group := 0
	if s := p.object.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		group = int(*s.FSGroup)
	}
	return errors.Join(os.Chmod(path, mode), os.Lchown(path, 0, group))
}

// refreshVolumes shows what ConfigMaps and Secrets hold now.
func (p *pod) refreshVolumes(ctx context.Context) error {
	for _, v := range p.volumes {
		now, err := p.read(ctx, v.source)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.name, err)
		}
		if now != nil && !now.equal(v.shown) {
			if err := p.show(v, now); err != nil {
				return fmt.Errorf("volume %s: %w", v.name, err)
			}
		}
	}
	return nil
}

func (c content) equal(o content) bool {
	if c == nil || o == nil || len(c) != len(o) {
		return false
	}
	for name, f := range c {
		if other, ok := o[name]; !ok || other.mode != f.mode || !bytes.Equal(other.data, f.data) {
			return false
		}
	}
	return true
}

// show replaces a volume's files at once, as a kubelet does: the names in the volume are links
// through ..data, which is renamed to a new folder.
func (p *pod) show(v *volume, now content) error {
	v.version++
	folder := fmt.Sprintf("..%d", v.version)
	if err := os.Mkdir(filepath.Join(v.dir, folder), 0o755); err != nil {
		return err
	}
	for name, f := range now {
		path := filepath.Join(v.dir, folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.data, 0o600), p.own(path, f.mode)); err != nil {
			return err
		}
	}
	next := filepath.Join(v.dir, "..data_tmp")
	if err := errors.Join(os.Symlink(folder, next), os.Rename(next, filepath.Join(v.dir, "..data"))); err != nil {
		return err
	}
	for name := range now {
		if _, was := v.shown[name]; !was {
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name)); err != nil {
				return err
			}
		}
	}
	for name := range v.shown {
		if _, is := now[name]; !is {
			_ = os.Remove(filepath.Join(v.dir, name))
		}
	}
	if v.version > 1 {
		_ = os.RemoveAll(filepath.Join(v.dir, fmt.Sprintf("..%d", v.version-1)))
	}
	v.shown = now
	return nil
}

// read returns what a volume should hold, nil for one that containers fill.
func (p *pod) read(ctx context.Context, v *core.Volume) (content, error) {
	switch {
	case v.ConfigMap != nil:
		return p.readConfigMap(ctx, &v.ConfigMap.LocalObjectReference, v.ConfigMap.Items, v.ConfigMap.DefaultMode, v.ConfigMap.Optional)
	case v.Secret != nil:
		return p.readSecret(ctx, v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, v.Secret.Optional)
	case v.DownwardAPI != nil:
		return p.readFields(v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	case v.Projected != nil:
		all := content{}
		for i := range v.Projected.Sources {
			part, err := p.readProjection(ctx, &v.Projected.Sources[i], v.Projected.DefaultMode)
			if err != nil {
				return nil, err
			}
			for name, f := range part {
				all[name] = f
			}
		}
		return all, nil
	case v.EmptyDir != nil || v.PersistentVolumeClaim != nil:
		return nil, nil
	}
	return nil, errors.New("this node knows no volume of its kind")
}

func (p *pod) readProjection(ctx context.Context, s *core.VolumeProjection, mode *int32) (content, error) {
	switch {
	case s.ConfigMap != nil:
		return p.readConfigMap(ctx, &s.ConfigMap.LocalObjectReference, s.ConfigMap.Items, mode, s.ConfigMap.Optional)
	case s.Secret != nil:
		return p.readSecret(ctx, s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return p.readFields(s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		token, err := p.token(ctx, s.ServiceAccountToken)
		return content{s.ServiceAccountToken.Path: {[]byte(token), modeOr(mode, 0o644)}}, err
	}
	return nil, errors.New("this node knows no projection of its kind")
}

// token asks once for a token of the pod's service account.
func (p *pod) token(ctx context.Context, s *core.ServiceAccountTokenProjection) (string, error) {
	if p.accountToken != "" {
		return p.accountToken, nil
	}
	request := &authentication.TokenRequest{TypeMeta: meta.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}}
	request.Spec.ExpirationSeconds = s.ExpirationSeconds
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	request.Spec.BoundObjectRef = &authentication.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.object.Name, UID: p.object.UID}
	path := "/api/v1/namespaces/" + p.object.Namespace + "/serviceaccounts/" + p.object.Spec.ServiceAccountName + "/token"
	if err := p.node.cluster.Post(ctx, path, request, request); err != nil {
		return "", err
	}
	p.accountToken = request.Status.Token
	return p.accountToken, nil
}

// getOptional reads an object; found is false for one that need not be there and is not.
func (p *pod) getOptional(ctx context.Context, kind, name string, optional *bool, out any) (found bool, err error) {
	err = p.node.cluster.Get(ctx, "/api/v1/namespaces/"+p.object.Namespace+"/"+kind+"/"+name, out)
	if status := new(StatusError); optional != nil && *optional && errors.As(err, &status) && status.Code == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

func (p *pod) readConfigMap(ctx context.Context, ref *core.LocalObjectReference, items []core.KeyToPath, mode *int32, optional *bool) (content, error) {
	var object core.ConfigMap
	if found, err := p.getOptional(ctx, "configmaps", ref.Name, optional, &object); !found {
		return content{}, err
	}
	data := map[string][]byte{}
	for key, text := range object.Data {
		data[key] = []byte(text)
	}
	for key, bytes := range object.BinaryData {
		data[key] = bytes
	}
	return choose(data, items, mode)
}

func (p *pod) readSecret(ctx context.Context, name string, items []core.KeyToPath, mode *int32, optional *bool) (content, error) {
	var object core.Secret
	if found, err := p.getOptional(ctx, "secrets", name, optional, &object); !found {
		return content{}, err
	}
	return choose(object.Data, items, mode)
}

// choose names the files of a ConfigMap or Secret: all keys, or the items.
func choose(data map[string][]byte, items []core.KeyToPath, mode *int32) (content, error) {
	out := content{}
	if items == nil {
		for key, bytes := range data {
			out[key] = file{bytes, modeOr(mode, 0o644)}
		}
	}
	for _, i := range items {
		bytes, ok := data[i.Key]
		if !ok {
			return nil, fmt.Errorf("references non-existent key: %s", i.Key)
		}
		m := modeOr(mode, 0o644)
		if i.Mode != nil {
			m = os.FileMode(*i.Mode)
		}
		out[i.Path] = file{bytes, m}
	}
	return out, nil
}

func modeOr(mode *int32, other os.FileMode) os.FileMode {
	if mode == nil {
		return other
	}
	return os.FileMode(*mode)
}

func (p *pod) readFields(items []core.DownwardAPIVolumeFile, mode *int32) (content, error) {
	out := content{}
	for _, i := range items {
		if i.FieldRef == nil {
			return nil, fmt.Errorf("%s: this node knows only fieldRef", i.Path)
		}
		value, err := p.field(i.FieldRef.FieldPath)
		if err != nil {
			return nil, err
		}
		out[i.Path] = file{[]byte(value), modeOr(mode, 0o644)}
	}
	return out, nil
}
