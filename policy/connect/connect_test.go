package connect_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
)

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][3]time.Duration{
		"redis://db/5": {time.Second, 90 * time.Millisecond, 90 * time.Millisecond},
		"redis://db/5?dial_timeout=3&read_timeout=50ms": {3 * time.Second, 50 * time.Millisecond, 90 * time.Millisecond},
		"redis+sentinel://db/main/5?write_timeout=1s":   {time.Second, 90 * time.Millisecond, time.Second},
	} {
		c, _, err := connect.Open(connect.Options{URL: raw, Deadline: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		o := c.(*redis.Client).Options()
		if o.DB != 5 {
			t.Errorf("%s: database %d", raw, o.DB)
		}
		if got := [3]time.Duration{o.DialTimeout, o.ReadTimeout, o.WriteTimeout}; got != want || !o.ContextTimeoutEnabled || o.MaxRetries != 0 {
			t.Errorf("%s: %v, retries %d", raw, got, o.MaxRetries)
		}
	}
	c, _, err := connect.Open(connect.Options{URL: "redis+cluster://db"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if o := c.(*redis.ClusterClient).Options(); o.ReadTimeout != 4500*time.Millisecond || o.ReadOnly || o.MaxRedirects != 3 || o.Dialer == nil {
		t.Errorf("cluster: %v %v %d", o.ReadTimeout, o.ReadOnly, o.MaxRedirects)
	}
}

// A Redis that takes connections and never answers is waited for as long as the context allows,
// whatever the topology.
func TestSilence(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // after the parallel tests
	for _, raw := range []string{"redis://HOST", "rediss://HOST", "redis+cluster://HOST", "redis+sentinel://HOST/main?read_timeout=1s"} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			// Closing waits for a sentinel that is being asked, hence its own time-out.
			c := open(t, strings.Replace(raw, "HOST", l.Addr().String(), 1))
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began := time.Now()
			if err := c.Get(ctx, "a").Err(); err == nil || errors.Is(err, redis.Nil) {
				t.Errorf("an answer: %v", err)
			}
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestSocketAndDatabase(t *testing.T) {
	t.Parallel()
	s := start(t, plain)
	do(t, s, append([]any{"acl", "setuser", "tollgate", "on", ">hunter2"}, anys(serverRules())...)...)
	do(t, s, "acl", "setuser", "tollgate", "+select")
	everything(t, open(t, "unix://tollgate:hunter2@"+s.dir+"/s?db=2"), 0)
	everything(t, open(t, "redis://tollgate:hunter2@"+s.address()+"/3"), 0)
	nothingRefused(t, s)
	if info := s.admin.Info(t.Context(), "keyspace").Val(); !strings.Contains(info, "db2:") || !strings.Contains(info, "db3:") || strings.Contains(info, "db0:") {
		t.Error(info)
	}
}

func anys(list []string) []any {
	all := make([]any, len(list))
	for i, s := range list {
		all[i] = s
	}
	return all
}

func TestInProcess(t *testing.T) {
	t.Parallel()
	asked := false
	c := connect.InProcess(func(context.Context, string, string) (net.Conn, error) { asked = true; return nil, net.ErrClosed }, 100*time.Millisecond)
	defer c.Close()
	if err := c.Ping(t.Context()).Err(); !errors.Is(err, net.ErrClosed) || !asked {
		t.Errorf("%v, %v", err, asked)
	}
	if o := c.Options(); o.ReadTimeout != 90*time.Millisecond || o.MaxRetries != 0 || !o.ContextTimeoutEnabled {
		t.Errorf("%+v", o)
	}
}
