package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stopLimit is how long a process has to leave by itself.
	stopLimit = 5 * time.Second
	// startLimit bounds the start of one process.
	startLimit = 20 * time.Second
)

// process is a child that was started and is ended by us.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser // nil unless asked for
	out  io.Reader
	log  *tail
	done chan struct{} // closed when it has been waited for
	exit error         // set before done is closed
}

// spawn starts a program. The goroutine that starts it keeps its thread until the
// child has ended, because a child is told of the end of that thread, not of ours.
func spawn(name string, piped bool, program string, env []string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), log: &tail{}, done: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = attributes()
	p.cmd.WaitDelay = stopLimit
	if piped {
		var err error
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		if p.out, err = p.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
	} else {
		p.cmd.Stdout = p.log
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.exit = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// await waits until ready says so.
func (p *process) await(ready func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(startLimit)
	for !ready() {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v\n%s", p.name, p.exit, p.log)
		case <-end:
			return fmt.Errorf("%s is not ready after %s\n%s", p.name, startLimit, p.log)
		case <-tick.C:
		}
	}
	return nil
}

// stop ends the process. It is an error if it had ended before.
func (p *process) stop() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.exit, p.log)
	default:
	}
	if p.in != nil {
		_ = p.in.Close() // it may be gone already
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %s", p.name, stopLimit)
	}
}

// tail keeps the end of what a process says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// tailBytes is how much of it is kept.
const tailBytes = 4096

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-tailBytes):]
	return len(b), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}

// cleanEnvironment returns ours without what would change the settings of a server,
// and with more.
func cleanEnvironment(more ...string) []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "TOLLGATE_") && !strings.HasPrefix(variable, "REDIS_") {
			env = append(env, variable)
		}
	}
	return append(env, more...)
}
