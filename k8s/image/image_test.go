package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// standIn is what these tests put into images in the place of the server: themselves.
func standIn(t *testing.T, at time.Time) []content {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var all []content
	for _, arch := range architectures() {
		c, err := newContent(arch, self, source{revision: "0123456789abcdef0123456789abcdef01234567", at: at})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func noon() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC) }

// imagesOf returns the images of an index by architecture.
func imagesOf(t *testing.T, index v1.ImageIndex) map[string]v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]v1.Image{}
	for _, m := range manifest.Manifests {
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		all[m.Platform.OS+"/"+m.Platform.Architecture] = image
	}
	return all
}

// unpack returns the files of an image by name.
func unpack(t *testing.T, image v1.Image) map[string]*tar.Header {
	t.Helper()
	stream := mutate.Extract(image)
	defer func() { _ = stream.Close() }()
	all := map[string]*tar.Header{}
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h
	}
}

func TestImage(t *testing.T) {
	index, err := newIndex(standIn(t, noon()))
	if err != nil {
		t.Fatal(err)
	}
	images := imagesOf(t, index)
	if len(images) != 2 || images["linux/amd64"] == nil || images["linux/arm64"] == nil {
		t.Fatalf("%v", images)
	}
	for platform, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if config.OS+"/"+config.Architecture != platform || c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/usr/local/bin/tollgate"}) ||
			!slices.Equal(c.Env, []string{"PATH=/usr/local/bin"}) || c.Labels["org.opencontainers.image.revision"] == "" || !config.Created.Equal(noon()) {
			t.Errorf("%s: %+v", platform, config)
		}
		files := unpack(t, image)
		for _, name := range []string{binaryPath, sbomPath, rootsPath, "etc/passwd", "etc/group"} {
			f := files[name]
			if f == nil || f.Uid != 0 || f.Mode&0o022 != 0 || (f.Mode&0o111 != 0) != (name == binaryPath) {
				t.Errorf("%s: %s: %+v", platform, name, f)
			}
		}
		if len(files) != 5+len([]string{"etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/local", "usr/local/bin", "usr/local/share", "usr/local/share/tollgate"}) {
			t.Errorf("%s: %d files and folders", platform, len(files))
		}
	}
}

// The same commit gives the same bytes.
func TestImagesAreReproducible(t *testing.T) {
	archiveOf := func(at time.Time) []byte {
		index, err := newIndex(standIn(t, at))
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "image.tar")
		if err := writeArchive(index, out); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := archiveOf(noon())
	if !bytes.Equal(first, archiveOf(noon())) {
		t.Error("two archives of one commit differ")
	}
	if bytes.Equal(first, archiveOf(noon().Add(time.Second))) {
		t.Error("the date of the commit is not in the image")
	}
}

// What a registry has after a push is the image.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	index, err := newIndex(standIn(t, noon()))
	if err != nil {
		t.Fatal(err)
	}
	to := strings.TrimPrefix(server.URL, "http://") + "/platform/tollgate:1.0"
	pushed, err := pushIndex(t.Context(), index, to)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	has, err := got.Digest()
	if err != nil || !strings.HasSuffix(pushed, "/platform/tollgate@"+has.String()) || len(imagesOf(t, got)) != 2 {
		t.Errorf("pushed %s, the registry has %s: %v", pushed, has, err)
	}
	if _, err := pushIndex(t.Context(), index, "tollgate"); err == nil {
		t.Error("a name without a registry and a tag is taken")
	}
}

func TestRoots(t *testing.T) {
	n := 0
	for rest := roots(); ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if c, err := x509.ParseCertificate(block.Bytes); err != nil || !c.IsCA {
			t.Errorf("no CA: %v", err)
		}
	}
	if n < 100 {
		t.Errorf("only %d CAs", n)
	}
}

// The SBOM names what the Go linker noted, each thing once, and says what depends on what.
func TestSBOM(t *testing.T) {
	c := standIn(t, noon())[0]
	var doc spdxDocument
	if err := json.Unmarshal(c.sbom, &doc); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{spdxDocumentID: true}
	packages := map[string]string{}
	for _, p := range doc.Packages {
		if ids[p.ID] {
			t.Errorf("%s is there twice", p.ID)
		}
		ids[p.ID] = true
		packages[p.Name] = p.Version
	}
	for _, r := range doc.Relationships {
		if !ids[r.Of] || !ids[r.To] {
			t.Errorf("%+v", r)
		}
	}
	if doc.Version != "SPDX-2.3" || packages["stdlib"] == "" || packages[rootsModule] == "" || doc.Creation.Created != "2026-01-15T12:00:00Z" || len(doc.Packages[0].Checksums) != 1 {
		t.Errorf("%+v", doc)
	}
	if _, err := newSBOM([]byte("no binary"), "amd64", noon()); err == nil {
		t.Error("what is no binary has an SBOM")
	}
}

func TestDateOfTheSource(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if s, err := commit(t.Context()); err != nil || s.at.Unix() != 1700000000 {
		t.Errorf("%+v, %v", s, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := commit(t.Context()); err == nil {
		t.Error("yesterday is taken")
	}
}
