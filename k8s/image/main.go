// Command image builds Tollgate's container image for amd64 and arm64 without Docker: a static
// binary, the CA roots and a user on an empty image, as an OCI archive. Built twice from one
// commit it is the same, byte for byte. It runs in the folder k8s; `make image` calls it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// architectures are those of the image.
func architectures() []string { return []string{"amd64", "arm64"} }

// run builds the image, writes the archive and the SBOMs, and pushes if it is told where to.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("out", "../bin/tollgate-image.tar", "the OCI archive")
	push := flags.String("push", "", "registry, repository and tag to push to, with the credentials of docker login")
	pgo := flags.String("pgo", "auto", "the profile to build with: off is quicker, for tests")
	if err := flags.Parse(args); err != nil {
		return err
	}
	from, err := commit(ctx)
	if err != nil {
		return err
	}
	folder := filepath.Dir(*out)
	var contents []content
	for _, arch := range architectures() {
		binary := filepath.Join(folder, "image", arch, "tollgate")
		if err := build(ctx, arch, binary, *pgo, stderr); err != nil {
			return fmt.Errorf("build for %s: %w", arch, err)
		}
		c, err := newContent(arch, binary, from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(strings.TrimSuffix(*out, ".tar")+"-"+arch+".spdx.json", c.sbom, 0o644); err != nil {
			return err
		}
		contents = append(contents, c)
	}
	index, err := newIndex(contents)
	if err != nil {
		return err
	}
	if err := writeArchive(index, *out); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "%s: %s\n", *out, digest); err != nil || *push == "" {
		return err
	}
	name, err := pushIndex(ctx, index, *push)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "pushed %s\n", name)
	return err
}

// source is what the image is built from.
type source struct {
	revision string // none outside of a git repository
	at       time.Time
}

// commit asks git for the commit and its date; SOURCE_DATE_EPOCH counts more. Without either, the
// date is the beginning of 1970.
func commit(ctx context.Context) (source, error) {
	s := source{at: time.Unix(0, 0).UTC()}
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if said, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%H %ct").Output(); err == nil {
		revision, date, _ := strings.Cut(strings.TrimSpace(string(said)), " ")
		s.revision, seconds = revision, cmp.Or(seconds, date)
	}
	if seconds == "" {
		return s, nil
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return s, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", seconds)
	}
	s.at = time.Unix(n, 0).UTC()
	return s, nil
}

// build compiles the server without cgo, and with the time zones in it. Neither the folder nor the
// time of the build is in the binary.
func build(ctx context.Context, arch, binary, pgo string, stderr io.Writer) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-pgo="+pgo, "-tags=timetzdata", "-ldflags=-s -w -buildid=", "-o", binary, "./cmd/tollgate")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = stderr, stderr
	return cmd.Run()
}
