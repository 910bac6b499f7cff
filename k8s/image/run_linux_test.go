package main

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// builtImage returns the image that `make image` has written. Building takes a minute or more, so
// make test-image does it, and without an archive these tests skip.
func builtImage(t *testing.T) map[string]v1.Image {
	t.Helper()
	file := os.Getenv("TOLLGATE_IMAGE")
	if file == "" {
		t.Skip("SKIPPED: no image to look into: run `make test-image`")
	}
	folder := t.TempDir()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	extract(t, f, folder)
	whole, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := whole.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v: %v", manifest, err)
	}
	index, err := whole.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return imagesOf(t, index)
}

// extract writes the files of a tar into a folder.
func extract(t *testing.T, from io.Reader, folder string) {
	t.Helper()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil || !filepath.IsLocal(h.Name) {
			t.Fatalf("%s: %v", h.Name, err)
		}
		name := filepath.Join(folder, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(name, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, os.FileMode(h.Mode)); err != nil {
			t.Fatal(err)
		}
	}
}

// The binaries are for their architecture, and need no library.
func TestBinariesAreStatic(t *testing.T) {
	for platform, image := range builtImage(t) {
		root := t.TempDir()
		stream := mutate.Extract(image)
		extract(t, stream, root)
		_ = stream.Close()
		f, err := elf.Open(filepath.Join(root, binaryPath))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}[platform]
		libraries, err := f.ImportedLibraries()
		if f.Machine != want || len(libraries) > 0 || err != nil || f.Section(".interp") != nil {
			t.Errorf("%s: %s, needs %v: %v", platform, f.Machine, libraries, err)
		}
		_ = f.Close()
	}
}

// A container of the image answers a check: its files are the whole of what the process sees, it
// cannot write to them, and it is the image's own user, without any capability.
func TestImageAnswers(t *testing.T) {
	image := builtImage(t)["linux/"+runtime.GOARCH]
	if image == nil {
		t.Fatalf("no image for %s", runtime.GOARCH)
	}
	root := readOnlyRoot(t, image)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var uid, gid uint32
	if _, err := fmt.Sscanf(config.Config.User, "%d:%d", &uid, &gid); err != nil || uid == 0 {
		t.Fatalf("user %s: %v", config.Config.User, err)
	}
	command := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, config.Config.Entrypoint[0], args...)
		cmd.Env, cmd.Dir = config.Config.Env, config.Config.WorkingDir
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		return cmd
	}
	address := freeAddress(t)
	// Nothing listens where the store should be: a request without a key is refused all the same.
	server := command(t.Context(), "serve", "--policy=/etc/tollgate/policies", "--store=redis://127.0.0.1:1/0", "--grpc-address="+address, "--http-address="+freeAddress(t))
	var log strings.Builder
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Host: "api.example.com", Path: "/v1/orders"}},
	}}, grpc.WaitForReady(true))
	if got := answer.GetDeniedResponse(); err != nil || got.GetStatus().GetCode() != 401 || !strings.Contains(got.GetBody(), "missing_api_key") {
		t.Errorf("%v, %v", answer, err)
	}
	// The command of the chart's test sees the same, and so does its check of policies.
	for _, args := range [][]string{
		{"doctor", "check", "--server=" + address, "--host=api.example.com", "--path=/v1/orders", "--want=refused"},
		{"policy", "check", "/etc/tollgate/policies"}, {"version"},
	} {
		if out, err := command(ctx, args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if err := server.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
}

// readOnlyRoot unpacks the image, puts the example policy beside it as a volume would be, and makes
// the whole read-only.
func readOnlyRoot(t *testing.T, image v1.Image) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root may change the root of a process")
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	stream := mutate.Extract(image)
	extract(t, stream, root)
	_ = stream.Close()
	policy, err := os.ReadFile("../policies/orders.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, "etc/tollgate/policies")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "orders.yaml"), policy, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(root, root, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED: this machine lets nobody mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "x"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("it can be written to: %v", err)
	}
	return root
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
