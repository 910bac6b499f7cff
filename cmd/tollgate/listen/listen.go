// Package listen opens TCP ports and unix sockets.
package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// UnixPrefix stands before the path of a unix socket in an address.
const UnixPrefix = "unix:"

// The permissions of the unix sockets: Envoy often runs as another user of our
// group; the store is for our own user alone.
const (
	grpcSocketMode fs.FileMode = 0o660
	StoreMode      fs.FileMode = 0o600
)

// socketProbe bounds the question whether anybody answers on a socket.
const socketProbe = time.Second

// On listens on HOST:PORT or unix:PATH.
func On(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, UnixPrefix); ok {
		return Unix(path, grpcSocketMode)
	}
	return net.Listen("tcp", address)
}

// Address returns the address of a listener in the form that listen takes.
func Address(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return UnixPrefix + l.Addr().String()
	}
	return l.Addr().String()
}

// unixListener is a listener whose socket was renamed after it was bound, which
// the net package does not know about.
type unixListener struct {
	*net.UnixListener
	path string
}

// Addr returns the final path.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the socket and stops listening.
func (l *unixListener) Close() error {
	removeErr := os.Remove(l.path)
	if errors.Is(removeErr, fs.ErrNotExist) {
		removeErr = nil
	}
	return errors.Join(removeErr, l.UnixListener.Close())
}

// Unix listens on a unix socket with these permissions. A socket that a
// server left behind is replaced; a path where anybody answers, or that is
// something else, is refused.
//
// The socket is bound in a directory that only we can enter, and moved when its
// permissions are right: bind itself follows the umask, which belongs to the
// whole process, so the socket would be open to others for a moment.
func Unix(path string, mode fs.FileMode) (net.Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// Short names: a socket's path has room for about 100 bytes.
	private, err := os.MkdirTemp(filepath.Dir(path), ".tg")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	bound := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s (%d bytes; about 90 are possible): %w", path, len(path), err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(bound, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := os.Rename(bound, path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &unixListener{UnixListener: l, path: path}, nil
}

// checkStale returns nil if there is nothing at path, or a socket of this user
// on which nobody answers.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s exists and belongs to another user", path)
	}
	conn, err := net.DialTimeout("unix", path, socketProbe)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is in use by another process", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s exists, and whether anybody answers there is not known: %w", path, err)
	}
	return nil
}
