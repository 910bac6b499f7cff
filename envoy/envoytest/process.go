package envoytest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopLimit is how long Stop waits for Envoy to leave by itself. It takes a few milliseconds.
const stopLimit = 5 * time.Second

// logTail is how much of Envoy's log an error of Start carries, in bytes.
const logTail = 4096

// Settings say which Envoy to start and what it is connected to.
type Settings struct {
	// Binary is Envoy's path; "" means Find.
	Binary string
	// Bootstrap is one of the shipped bootstraps (envoy.Bootstrap). Required.
	Bootstrap []byte
	// Tollgate and Upstream are the addresses of the two clusters: host:port, or unix:PATH with an
	// absolute PATH, or several of one kind joined with commas. "" leaves the shipped address.
	Tollgate, Upstream string
	// ProxyProtocol makes the listener take, and insist on, a PROXY protocol header on each
	// connection.
	ProxyProtocol bool
	// CheckTimeout replaces the shipped time limit of a check, which a loaded test machine may
	// exceed; 0 keeps it.
	CheckTimeout time.Duration
	// LogLevel is Envoy's --log-level; "" is warning, less than Envoy's own default, info.
	LogLevel string
	// AccessLog is the file for the access log; "" keeps Envoy's standard output, which is part of
	// Log.
	AccessLog string
	// ListenPort is the listener's port on 127.0.0.1; 0 picks a free one.
	ListenPort int
	// Dir takes the bootstrap as it was given to Envoy and Envoy's log. It must exist. "" makes a
	// temporary one, which Stop removes.
	Dir string
}

// Envoy is a running Envoy process. Its methods may be called from several goroutines.
type Envoy struct {
	addr, admin string
	dir         string
	ownDir      bool
	cmd         *exec.Cmd
	done        chan struct{} // closed when the process has been waited for; exit is set before
	exit        error

	stop    sync.Once
	stopErr error // written inside stop

	mu  sync.Mutex
	log string // the whole log, once ownDir has been removed; guarded by mu
}

// Start runs Envoy with the bootstrap of s, changed to listen on 127.0.0.1 only, and returns when
// it is ready to serve. ctx bounds the start alone: Stop ends the process. The error of a start
// that failed carries the last reason and the end of Envoy's log.
func Start(ctx context.Context, s Settings) (*Envoy, error) {
	if s.Binary == "" {
		path, err := Find()
		if err != nil {
			return nil, err
		}
		s.Binary = path
	}
	config, err := rewrite(&s)
	if err != nil {
		return nil, err
	}
	e := &Envoy{dir: s.Dir, done: make(chan struct{})}
	if e.dir == "" {
		if e.dir, err = os.MkdirTemp("", "tollgate-envoy-"); err != nil {
			return nil, err
		}
		e.ownDir = true
	}
	if err := os.WriteFile(e.path("envoy.json"), config, 0o600); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	if err := e.run(&s); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", s.Binary, err), e.Stop())
	}
	if err := e.awaitReady(ctx); err != nil {
		err = fmt.Errorf("start Envoy: %w\n%s", err, tail(e.Log(), logTail))
		_ = e.Stop() // the reason above is the one to report
		return nil, err
	}
	return e, nil
}

// run starts the process. The goroutine that starts it keeps its thread until the process has
// ended, because the parent-death signal is sent when that thread ends, not the whole of our
// process.
func (e *Envoy) run(s *Settings) error {
	// A file of an earlier run in the same Dir would name an address that nobody listens on.
	if err := os.Remove(e.path("admin")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(e.path("envoy.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	e.cmd = exec.Command(s.Binary,
		"--config-path", e.path("envoy.json"),
		"--admin-address-path", e.path("admin"),
		"--concurrency", "1",
		"--disable-hot-restart", // no shared memory, so any number of Envoys run side by side
		"--file-flush-interval-msec", "5",
		"--log-level", cmp.Or(s.LogLevel, "warning"),
	)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = attributes()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(e.done)
		defer log.Close()
		err := e.cmd.Start()
		started <- err
		if err == nil {
			e.exit = e.cmd.Wait()
		}
	}()
	return <-started
}

// awaitReady waits until Envoy serves, and learns its addresses. It keeps the last reason why it
// was not ready, which says more than "deadline exceeded".
func (e *Envoy) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-e.done:
			return fmt.Errorf("it ended: %s", e.cmd.ProcessState)
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

// probe asks the admin interface once whether Envoy serves, and for the listener's address.
func (e *Envoy) probe(ctx context.Context) error {
	admin, err := os.ReadFile(e.path("admin"))
	if err != nil {
		return fmt.Errorf("admin address: %w", err)
	}
	if len(admin) == 0 {
		return errors.New("admin address: not written yet")
	}
	e.admin = strings.TrimSpace(string(admin))
	if _, err := e.get(ctx, "/ready"); err != nil {
		return err
	}
	body, err := e.get(ctx, "/listeners?format=json")
	if err != nil {
		return err
	}
	e.addr, err = listenerAddress(body)
	return err
}

// listenerAddress reads the address of the listener `ingress` out of the admin interface's list.
func listenerAddress(body []byte) (string, error) {
	var list struct {
		Listeners []struct {
			Name    string
			Address struct {
				Socket struct {
					Address string
					Port    int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return "", fmt.Errorf("listeners: %w", err)
	}
	for _, l := range list.Listeners {
		if l.Name == "ingress" && l.Address.Socket.Port != 0 {
			return net.JoinHostPort(l.Address.Socket.Address, strconv.Itoa(l.Address.Socket.Port)), nil
		}
	}
	return "", errors.New("listeners: ingress is not up yet")
}

// get returns the body of one admin page, or an error if its status is not 200.
func (e *Envoy) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.admin+path, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s: %s", path, res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// Addr returns the listener's address, host:port.
func (e *Envoy) Addr() string { return e.addr }

// Admin returns the address of the admin interface, host:port.
func (e *Envoy) Admin() string { return e.admin }

// PID returns the id of the process.
func (e *Envoy) PID() int { return e.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended, for whatever reason.
func (e *Envoy) Done() <-chan struct{} { return e.done }

// Log returns what Envoy has logged until now, the access log included unless Settings.AccessLog
// named a file. It still works after Stop.
func (e *Envoy) Log() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	b, err := os.ReadFile(e.path("envoy.log"))
	if err != nil {
		return e.log
	}
	return string(b)
}

// Stop ends Envoy and returns once the process is gone: SIGTERM, and SIGKILL if that takes more
// than 5 s. It is an error if Envoy had ended before by itself or needed SIGKILL. Later calls
// return what the first one did.
func (e *Envoy) Stop() error {
	e.stop.Do(func() {
		e.stopErr = e.end()
		if e.ownDir {
			e.stopErr = errors.Join(e.stopErr, e.removeDir())
		}
	})
	return e.stopErr
}

// removeDir removes the working folder and keeps the log.
func (e *Envoy) removeDir() error {
	log := e.Log()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = log
	return os.RemoveAll(e.dir)
}

// end stops the process, if there is one.
func (e *Envoy) end() error {
	if e.cmd == nil || e.cmd.Process == nil {
		return nil
	}
	select {
	case <-e.done:
		return fmt.Errorf("stop Envoy: it had ended before: %s", e.cmd.ProcessState)
	default:
	}
	// Both signals can only miss a process that is just ending, and then done is closed without
	// them.
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-e.done:
		if e.exit != nil {
			return fmt.Errorf("stop Envoy: %w", e.exit)
		}
		return nil
	case <-timer.C:
		_ = e.cmd.Process.Kill()
		<-e.done
		return fmt.Errorf("stop Envoy: it did not end within %s of SIGTERM and was killed", stopLimit)
	}
}

// path returns the path of a file in the working folder of this Envoy.
func (e *Envoy) path(name string) string { return filepath.Join(e.dir, name) }

// tail returns the last n bytes of text.
func tail(text string, n int) string { return text[max(0, len(text)-n):] }
