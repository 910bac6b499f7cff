//go:build linux

package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// container is one of a pod. Its fields belong to the goroutine of the pod's run, but for those of
// the probes.
type container struct {
	pod  *pod
	spec *core.Container
	init bool

	root     string
	mounts   []string
	process  *process
	state    core.ContainerState
	last     core.ContainerState
	restarts int32
	again    time.Time // when it may start again

	started, ready, unhealthy atomic.Bool
}

// process is a program that runs in a container.
type process struct {
	cmd  *exec.Cmd
	stop context.CancelFunc // of its probes
	done chan struct{}      // closed when it has ended
}

func newContainer(p *pod, spec *core.Container, init bool) *container {
	c := &container{pod: p, spec: spec, init: init, root: filepath.Join(p.dir, "roots", spec.Name)}
	c.wait("ContainerCreating", "")
	return c
}

func (c *container) wait(reason, message string) {
	c.state = core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: reason, Message: message}}
}

// finished reports whether the container has ended and will not start again.
func (c *container) finished() bool {
	if c.state.Terminated == nil {
		return false
	}
	policy := c.pod.object.Spec.RestartPolicy
	return policy == core.RestartPolicyNever || (policy == core.RestartPolicyOnFailure || c.init) && c.state.Terminated.ExitCode == 0
}

func (c *container) succeeded() bool {
	return c.finished() && c.state.Terminated.ExitCode == 0
}

// advance looks after the container's process.
func (c *container) advance() {
	if c.process != nil {
		select {
		case <-c.process.done:
			c.ended()
		default:
			if c.unhealthy.CompareAndSwap(true, false) {
				c.pod.node.complain("%s: %s is killed by its liveness probe", c.pod.object.Name, c.spec.Name)
				c.terminate()
			}
			return
		}
	}
	if c.finished() || time.Now().Before(c.again) {
		return
	}
	if err := c.begin(); err != nil {
		c.again = time.Now().Add(refresh)
		c.wait("CreateContainerConfigError", err.Error())
	}
}

// ended notes how the process did.
func (c *container) ended() {
	code := int32(c.process.cmd.ProcessState.ExitCode())
	reason, message := "Completed", ""
	if code != 0 {
		reason = "Error"
		message = string(tail(c.logFile(), 2048))
	}
	began := c.state.Running.StartedAt
	c.state = core.ContainerState{Terminated: &core.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: began, FinishedAt: meta.Now(), Message: message}}
	c.process.stop()
	c.process = nil
	c.started.Store(false)
	c.ready.Store(false)
	if !c.finished() {
		c.restarts++
		c.again = time.Now().Add(min(time.Duration(c.restarts)*time.Second, 10*time.Second))
		c.last = c.state
		c.wait("CrashLoopBackOff", message)
	}
}

func (c *container) logFile() string { return filepath.Join(c.pod.dir, c.spec.Name+".log") }

// begin starts the process.
func (c *container) begin() error {
	image, err := c.image()
	if err != nil {
		return err
	}
	if err := c.open(image); err != nil {
		return err
	}
	environment, err := c.environment(image)
	if err != nil {
		return err
	}
	argv := slices.Concat(c.spec.Command, c.spec.Args)
	if len(c.spec.Command) == 0 {
		argv = slices.Concat(image.Entrypoint, c.spec.Args)
	}
	for i := range argv {
		argv[i] = expand(argv[i], environment)
	}
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	// A program may open /dev/stdout, as its own user.
	if err := log.Chmod(0o666); err != nil {
		return errors.Join(err, log.Close())
	}
	cmd, err := c.command(context.Background(), environment, argv)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	ctx, stop := context.WithCancel(c.pod.ctx)
	p := &process{cmd: cmd, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
		_ = log.Close()
	}()
	c.process = p
	c.state = core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: meta.Now()}}
	c.probe(ctx)
	return nil
}

// image returns what is in the container's image.
func (c *container) image() (*Image, error) {
	name := c.spec.Image[strings.LastIndex(c.spec.Image, "/")+1:]
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	image, ok := c.pod.node.images[name]
	if !ok {
		return nil, fmt.Errorf("the test has no image %s", c.spec.Image)
	}
	return &image, nil
}

// command returns a program to be run in the container's namespaces, under its user.
func (c *container) command(ctx context.Context, environment []string, argv []string) (*exec.Cmd, error) {
	if len(argv) == 0 {
		return nil, errors.New("nothing to run")
	}
	user, groups, err := c.user()
	if err != nil {
		return nil, err
	}
	chroot, err := exec.LookPath("chroot")
	if err != nil {
		return nil, err
	}
	args := []string{"netns", "exec", c.pod.network, chroot, "--userspec=" + user, "--groups=" + groups, c.root}
	cmd := exec.CommandContext(ctx, "ip", append(args, argv...)...)
	cmd.Env = environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}

// user returns "user:group" and the other groups of the container's processes.
func (c *container) user() (user, groups string, err error) {
	uid, gid, root := int64(0), int64(0), true
	s := c.pod.object.Spec.SecurityContext
	if s == nil {
		s = new(core.PodSecurityContext)
	}
	own := c.spec.SecurityContext
	if own == nil {
		own = new(core.SecurityContext)
	}
	for _, id := range []*int64{s.RunAsUser, own.RunAsUser} {
		if id != nil {
			uid = *id
		}
	}
	for _, id := range []*int64{s.RunAsGroup, own.RunAsGroup} {
		if id != nil {
			gid = *id
		}
	}
	for _, b := range []*bool{s.RunAsNonRoot, own.RunAsNonRoot} {
		if b != nil {
			root = !*b
		}
	}
	if uid == 0 && !root {
		return "", "", errors.New("container has runAsNonRoot and image will run as root")
	}
	if s.FSGroup != nil {
		groups = fmt.Sprint(*s.FSGroup)
	}
	return fmt.Sprintf("%d:%d", uid, gid), groups, nil
}

// open makes the root folder, once.
func (c *container) open(image *Image) error {
	if c.mounts != nil {
		return nil
	}
	err := c.fill(image)
	if err != nil {
		c.unmount()
	}
	return err
}

// fill mounts the image's files and the volumes in the root folder.
func (c *container) fill(image *Image) error {
	if err := errors.Join(os.MkdirAll(c.root, 0o755), c.mount(c.root, "", 0)); err != nil {
		return err
	}
	for at, path := range image.Files {
		if err := c.mount(path, at, syscall.MS_RDONLY); err != nil {
			return err
		}
	}
	resolver := filepath.Join(c.pod.dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver "+hostAddress+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		return err
	}
	for at, path := range map[string]string{"/etc/hosts": filepath.Join(c.pod.dir, "hosts"), "/etc/resolv.conf": resolver, "/dev": "/dev", "/proc": "/proc"} {
		if err := c.mount(path, at, syscall.MS_RDONLY); err != nil {
			return err
		}
	}
	for _, m := range c.spec.VolumeMounts {
		i := slices.IndexFunc(c.pod.volumes, func(v *volume) bool { return v.name == m.Name })
		if i < 0 {
			return fmt.Errorf("no volume %s", m.Name)
		}
		if m.SubPath != "" || m.SubPathExpr != "" {
			return fmt.Errorf("volume %s: this node knows no subPath", m.Name)
		}
		flags := uintptr(0)
		if v := c.pod.volumes[i]; m.ReadOnly || v.source.EmptyDir == nil && !v.keep {
			flags = syscall.MS_RDONLY
		}
		if err := c.mount(c.pod.volumes[i].dir, m.MountPath, flags); err != nil {
			return err
		}
	}
	if s := c.spec.SecurityContext; s != nil && s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem {
		return syscall.Mount("", c.root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, "")
	}
	return nil
}

// mount shows a file or folder of this machine in the root folder. Those that are not the cluster's
// own are read-only, whoever the container is: nobody who cleans up may follow them.
func (c *container) mount(path, at string, flags uintptr) error {
	target := filepath.Join(c.root, at)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := syscall.Mount(path, target, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", path, target, err)
	}
	c.mounts = append(c.mounts, target)
	if flags != 0 {
		return syscall.Mount("", target, "", syscall.MS_REMOUNT|syscall.MS_BIND|flags, "")
	}
	return nil
}

// terminate asks the process to end. preStop comes first, and may take as long as the pod.
func (c *container) terminate() {
	if c.process == nil {
		return
	}
	running := c.process.cmd.Process
	if l := c.spec.Lifecycle; l == nil || l.PreStop == nil || l.PreStop.Exec == nil {
		_ = running.Signal(syscall.SIGTERM)
		return
	}
	go func() {
		o := c.pod.object
		_, text, err := c.pod.node.cluster.Exec(c.pod.ctx, o.Namespace, o.Name, c.spec.Name, nil, c.spec.Lifecycle.PreStop.Exec.Command...)
		if err != nil && c.pod.ctx.Err() == nil {
			c.pod.node.complain("%s: preStop of %s: %v\n%s", o.Name, c.spec.Name, err, text)
		}
		_ = running.Signal(syscall.SIGTERM)
	}()
}

// clear kills the process, and empties the root folder, of which mount points are left.
func (c *container) clear() {
	if c.process != nil {
		c.process.stop()
		_ = c.process.cmd.Process.Kill()
		<-c.process.done
	}
	c.unmount()
}

func (c *container) unmount() {
	for _, m := range slices.Backward(c.mounts) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	c.mounts = nil
}

func (c *container) status() core.ContainerStatus {
	started := c.started.Load()
	return core.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, State: c.state, LastTerminationState: c.last,
		Ready: c.ready.Load() && c.state.Running != nil || c.init && c.succeeded(), Started: &started, RestartCount: c.restarts}
}

// Exec runs a program in a pod's first container or the one named, as `kubectl exec` does.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, stdin io.Reader, argv ...string) (stdout, stderr string, err error) {
	p := c.node.find(namespace, pod)
	if p == nil {
		return "", "", fmt.Errorf("no pod %s/%s runs", namespace, pod)
	}
	in := p.named(container)
	if in == nil {
		return "", "", fmt.Errorf("%s/%s has no container %s", namespace, pod, container)
	}
	image, err := in.image()
	if err != nil {
		return "", "", err
	}
	environment, err := in.environment(image)
	if err != nil {
		return "", "", err
	}
	cmd, err := in.command(ctx, environment, argv)
	if err != nil {
		return "", "", err
	}
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// Log returns what a pod's containers said, also of one that is gone.
func (c *Cluster) Log(namespace, pod string) string {
	if p := c.node.find(namespace, pod); p != nil {
		return p.log()
	}
	return ""
}

// find returns the pod of a name, the last of them when there were several.
func (n *node) find(namespace, name string) (found *pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ended {
		if p.object.Namespace == namespace && p.object.Name == name {
			found = p
		}
	}
	for _, p := range n.pods {
		if p.object.Namespace == namespace && p.object.Name == name {
			return p
		}
	}
	return found
}
