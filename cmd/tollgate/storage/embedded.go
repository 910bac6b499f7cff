package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/cmd/tollgate/listen"
	"tollgate/policy/connect"
)

// sweepInterval is how often the embedded store forgets what has expired. Its
// own clock does not do that, and the TTLs in use have days to spare.
const sweepInterval = 10 * time.Second

// embeddedTimeout bounds a command whose context has no end, such as those at the start. A store in
// this process is only ever late because the machine is busy, and decisions end by their own
// deadline.
const embeddedTimeout = 10 * time.Second

// openEmbedded starts a Redis inside this process, without any TCP port: our own
// client reaches it in memory, others of the same user by the unix socket.
func openEmbedded(socket string) (*Store, error) {
	if socket == "" {
		var err error
		if socket, err = defaultSocket(); err != nil {
			return nil, fmt.Errorf("--store-socket: %w", err)
		}
	}
	listener, err := listen.Unix(socket, listen.StoreMode)
	if err != nil {
		return nil, fmt.Errorf("--store-socket: %w", err)
	}
	server := miniredis.NewMiniRedis()
	first, err := server.Dial() // starts it, without any port
	if err == nil {
		err = first.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded store: %w", err), listener.Close())
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return dialPair(server) }
	e := &embedded{server: server, client: connect.InProcess(dial, embeddedTimeout), listener: listener, ended: make(chan struct{})}
	if err := e.client.Ping(context.Background()).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded store: %w", err), e.close())
	}
	e.work.Go(e.accept)
	e.work.Go(e.sweep)
	address := listen.Address(listener)
	return &Store{
		Client:   e.client,
		What:     "embedded, in this process: keys and counters are lost when it ends (" + address + ")",
		Address:  address,
		Embedded: true,
		Close:    e.close,
	}, nil
}

// dialPair connects to the server by a pair of sockets. The server's own Dial has
// no buffer: a pipeline that is longer than what either side reads at once would
// wait for itself.
func dialPair(server *miniredis.Miniredis) (net.Conn, error) {
	var ends [2]net.Conn
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	for i, fd := range pair {
		syscall.CloseOnExec(fd)
		file := os.NewFile(uintptr(fd), "embedded store")
		var opened error
		ends[i], opened = net.FileConn(file) // takes a copy
		err = errors.Join(err, opened, file.Close())
	}
	if err != nil {
		for _, end := range ends {
			if end != nil {
				err = errors.Join(err, end.Close())
			}
		}
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	server.Server().ServeConn(ends[0])
	return ends[1], nil
}

// embedded is a running embedded store.
type embedded struct {
	server   *miniredis.Miniredis
	client   *redis.Client
	listener net.Listener
	ended    chan struct{} // closed by close
	work     sync.WaitGroup
}

// accept hands the connections of the socket to the server.
func (e *embedded) accept() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return // closed
		}
		e.server.Server().ServeConn(conn)
	}
}

func (e *embedded) sweep() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-e.ended:
			return
		case <-tick.C:
			e.server.FastForward(sweepInterval)
		}
	}
}

// close ends the store; it is called once.
func (e *embedded) close() error {
	close(e.ended)
	err := e.listener.Close()
	e.work.Wait()
	err = errors.Join(err, e.client.Close())
	e.server.Close()
	return err
}

// defaultSocket returns the path of the store's socket in a directory that is
// this user's alone, and makes the directory.
func defaultSocket() (string, error) {
	dir := filepath.Join(os.TempDir(), "tollgate-"+strconv.Itoa(os.Getuid()))
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
		dir = filepath.Join(runtime, "tollgate")
	}
	if err := privateDir(dir); err != nil {
		return "", err
	}
	return filepath.Join(dir, "store.sock"), nil
}

// privateDir makes a directory, or takes one that is there if nobody else can
// have prepared or can enter it: the temporary directory is everybody's.
func privateDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s must be a directory that only user %d can enter (mode 0700)", dir, os.Getuid())
	}
	return nil
}
