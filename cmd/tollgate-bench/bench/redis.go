package bench

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisServer is a real Redis on a unix socket, of one server alone.
type redisServer struct {
	*process
	socket string
	client *redis.Client
}

// startRedis starts redis-server with its data in dir. It has no TCP port and keeps
// nothing on disk. Package redistest, which does this for tests, ends its servers with a test.
func startRedis(dir, name string) (*redisServer, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not on PATH, and nothing is measured on anything else: on Debian, apt-get install redis-server")
	}
	r := &redisServer{socket: filepath.Join(dir, name+".sock")}
	r.process, err = spawn("redis-server", false, program, cleanEnvironment(), "--port", "0", "--unixsocket", r.socket,
		"--unixsocketperm", "700", "--save", "", "--appendonly", "no", "--dir", dir)
	if err != nil {
		return nil, err
	}
	err = r.await(func() bool {
		c, err := net.Dial("unix", r.socket)
		return err == nil && c.Close() == nil
	})
	if err != nil {
		return nil, errors.Join(err, r.process.stop())
	}
	// A spend or a seed that is sent twice would be another load.
	r.client = redis.NewClient(&redis.Options{Network: "unix", Addr: r.socket, MaxRetries: -1, ReadTimeout: time.Minute})
	return r, nil
}

func (r *redisServer) stop() error { return errors.Join(r.client.Close(), r.process.stop()) }
