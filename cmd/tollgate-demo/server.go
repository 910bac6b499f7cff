package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tollgate/policy/policyfile"
)

const (
	// serverStart bounds the start of tollgate, which takes well under a second.
	serverStart = 30 * time.Second
	// serverPoll is how often the start is looked at.
	serverPoll = 10 * time.Millisecond
)

// server is a running tollgate, with its embedded store, in a directory of its own.
type server struct {
	dir  string
	cmd  *exec.Cmd
	log  bytes.Buffer  // complete once done is closed
	done chan struct{} // closed when the process has ended
	err  error         // how; set before done is closed
}

func (s *server) store() string { return filepath.Join(s.dir, "store.sock") }
func (s *server) grpc() string  { return "unix:" + filepath.Join(s.dir, "grpc.sock") }

// startServer starts the binary with these policies and waits until it is ready.
func startServer(ctx context.Context, binary, dir string, policies []policyfile.File) (*server, error) {
	binary, err := findBinary(binary)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o700); err != nil {
		return nil, err
	}
	for _, f := range policies {
		if err := os.WriteFile(filepath.Join(dir, "policies", f.Name), f.Data, 0o600); err != nil {
			return nil, err
		}
	}
	pepper, addresses := filepath.Join(dir, "pepper"), filepath.Join(dir, "addresses.json")
	if err := os.WriteFile(pepper, []byte(demoPepper), 0o600); err != nil {
		return nil, err
	}
	s := &server{dir: dir, done: make(chan struct{})}
	s.cmd = exec.Command(binary, "serve", "--policy", filepath.Join(dir, "policies"), "--pepper-file", pepper,
		"--store", "memory", "--store-socket", s.store(), "--grpc-address", s.grpc(), "--http-address", "127.0.0.1:0",
		"--addresses-file", addresses, "--log-level", "error", "--log-decisions", "none")
	s.cmd.Stderr = &s.log
	s.cmd.Env = environment()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we end the server
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	if err := s.await(ctx, addresses); err != nil {
		_ = s.stop()
		return nil, err
	}
	return s, nil
}

// findBinary returns the server's binary: as it is named, else beside this program,
// else on PATH.
func findBinary(name string) (string, error) {
	if name == "" {
		name = "tollgate"
		if self, err := os.Executable(); err == nil {
			if beside, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
				name = beside
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no tollgate to show (make build, or --binary): %w", err)
	}
	return path, nil
}

// environment is that of this process without settings for another server.
func environment() (own []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TOLLGATE_") && !strings.HasPrefix(v, "REDIS_") {
			own = append(own, v)
		}
	}
	return own
}

// await returns once the server has written its addresses.
func (s *server) await(ctx context.Context, addresses string) error {
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	tick := time.NewTicker(serverPoll)
	defer tick.Stop()
	for {
		if data, err := os.ReadFile(addresses); err == nil && json.Valid(data) {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return fmt.Errorf("tollgate: %w\n%s", s.err, &s.log)
		case <-ctx.Done():
			return fmt.Errorf("tollgate is not ready: %w", ctx.Err())
		}
	}
}

// stop ends the server and waits for it. SIGINT, because nobody need notice first.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(os.Interrupt)
	<-s.done
	return s.err
}
