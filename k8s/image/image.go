package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	binaryPath = "usr/local/bin/tollgate"
	sbomPath   = "usr/local/share/tollgate/sbom.spdx.json"
	rootsPath  = "etc/ssl/certs/ca-certificates.crt"
	// The user has a name, so that the audit stream names it.
	user = "65532:65532"
	etc  = "tollgate:x:65532:65532::/:/sbin/nologin\n"
)

// content is what goes into the image of an architecture.
type content struct {
	arch         string
	binary, sbom []byte
	from         source
}

func newContent(arch, file string, from source) (content, error) {
	binary, err := os.ReadFile(file)
	if err != nil {
		return content{}, err
	}
	sbom, err := newSBOM(binary, arch, from.at)
	return content{arch, binary, sbom, from}, err
}

// roots returns the CA certificates that Mozilla trusts without conditions, as PEM.
func roots() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil { // a file of certificates can say none
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return out.Bytes()
}

// file is one of a layer; its folders come with it.
type file struct {
	name string
	mode int64
	data []byte
}

// archive writes files as a tar whose bytes depend on them and on the time alone.
func archive(files []file, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	seen := map[string]bool{}
	for _, f := range files {
		parts := strings.Split(path.Dir(f.name), "/")
		for i := range parts {
			folder := strings.Join(parts[:i+1], "/")
			if folder == "." || seen[folder] {
				continue
			}
			seen[folder] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: at, Format: tar.FormatUSTAR}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: at, Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func newLayer(files []file, at time.Time) (v1.Layer, error) {
	data, err := archive(files, at)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithMediaType(types.OCILayer))
}

// newImage puts what changes seldom into a layer of its own.
func newImage(c content) (v1.Image, error) {
	base, err := newLayer([]file{
		{"etc/group", 0o644, []byte("tollgate:x:65532:\n")}, {"etc/passwd", 0o644, []byte(etc)}, {rootsPath, 0o644, roots()},
	}, time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	program, err := newLayer([]file{{binaryPath, 0o755, c.binary}, {sbomPath, 0o644, c.sbom}}, c.from.at)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image,
		mutate.Addendum{Layer: base, History: history("CA roots, a user", time.Unix(0, 0))},
		mutate.Addendum{Layer: program, History: history("tollgate", c.from.at)})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", c.arch, v1.Time{Time: c.from.at}
	config.Config = v1.Config{
		User: user, WorkingDir: "/", Entrypoint: []string{"/" + binaryPath},
		// kubectl exec finds the program by its name.
		Env:    []string{"PATH=/usr/local/bin"},
		Labels: labels(c.from),
	}
	return mutate.ConfigFile(image, config)
}

func history(what string, at time.Time) v1.History {
	return v1.History{Created: v1.Time{Time: at.UTC()}, CreatedBy: "make image: " + what}
}

func labels(from source) map[string]string {
	all := map[string]string{
		"org.opencontainers.image.title":       "tollgate",
		"org.opencontainers.image.description": "API keys and rate limits for Envoy (ext_authz)",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     from.at.Format(time.RFC3339),
	}
	if from.revision != "" {
		all["org.opencontainers.image.revision"] = from.revision
	}
	return all
}

// newIndex returns the image of all architectures.
func newIndex(contents []content) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, c := range contents {
		image, err := newImage(c)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: c.arch}},
		})
	}
	return index, nil
}

// writeArchive writes an OCI layout as a tar, in the order of its names.
func writeArchive(index v1.ImageIndex, out string) (err error) {
	folder, err := os.MkdirTemp("", "tollgate-image")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	// The layout's own index names one thing, the image of all architectures.
	whole := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: index, Descriptor: v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": "tollgate"}},
	})
	if _, err := layout.Write(folder, whole); err != nil {
		return err
	}
	var files []file
	err = filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, name)
		files = append(files, file{filepath.ToSlash(rel), 0o644, data})
		return err
	})
	if err != nil {
		return err
	}
	data, err := archive(files, time.Unix(0, 0))
	if err != nil {
		return err
	}
	return os.WriteFile(out, data, 0o644)
}

// pushIndex pushes the image, and returns its name with the digest.
func pushIndex(ctx context.Context, index v1.ImageIndex, to string) (string, error) {
	ref, err := name.ParseReference(to, name.StrictValidation)
	if err != nil {
		return "", fmt.Errorf("-push: %w", err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return "", fmt.Errorf("-push: %w", err)
	}
	digest, err := index.Digest()
	if err != nil {
		return "", err
	}
	return ref.Context().Name() + "@" + digest.String(), nil
}
