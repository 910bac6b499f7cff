package envoytest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// ErrNotFound is what Find and FindVersion return, wrapped, when this machine has no Envoy for
// them. The text says how to get one.
var ErrNotFound = errors.New("no Envoy binary found: run `make tools` (it fills .tools/ by envoy/fetch.sh), " +
	"or set ENVOY_BIN to one (func-e gets it on macOS and arm64), " +
	"or use `docker compose -f envoy/docker-compose.yaml up` instead")

// Find returns the path of the Envoy binary to run: ENVOY_BIN if set, else .tools/envoy in the
// working directory or above it (up to the root of this repository) or likewise from the running
// executable, else envoy on PATH. An ENVOY_BIN that cannot be run is an error, not a reason to look
// further.
func Find() (string, error) {
	if path := os.Getenv("ENVOY_BIN"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("ENVOY_BIN: %w", err)
		}
		return filepath.Abs(found)
	}
	if path := findTool("envoy"); path != "" {
		return path, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(path)
	}
	return "", ErrNotFound
}

// FindVersion returns the path of .tools/envoy-<version>/envoy, looked for in the same places as
// Find does.
func FindVersion(version string) (string, error) {
	if path := findTool(filepath.Join("envoy-"+version, "envoy")); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("version %s (`envoy/fetch.sh %s` gets it): %w", version, version, ErrNotFound)
}

// findTool looks for .tools/<name> above the working directory, then above the executable; "" if
// neither has it.
func findTool(name string) string {
	if dir, err := os.Getwd(); err == nil {
		if path := findAbove(dir, name); path != "" {
			return path
		}
	}
	if exe, err := os.Executable(); err == nil {
		return findAbove(filepath.Dir(exe), name)
	}
	return ""
}

// findAbove looks for .tools/<name> in dir and its parents, and no further than the root of this
// repository.
func findAbove(dir, name string) string {
	for {
		path := filepath.Join(dir, ".tools", name)
		if isExecutable(path) {
			return path
		}
		parent := filepath.Dir(dir)
		if parent == dir || isModuleRoot(dir) {
			return ""
		}
		dir = parent
	}
}

// isExecutable reports whether path is, or leads to, a file that may be run.
func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// isModuleRoot reports whether dir holds Tollgate's go.mod.
func isModuleRoot(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && regexp.MustCompile(`(?m)^module tollgate\s*$`).Match(b)
}
