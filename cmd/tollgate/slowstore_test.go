package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// farAway is a way to a server that takes its time: half of it there and half back, however much is
// sent. It returns the address of its near end.
func farAway(t *testing.T, network, address string, trip time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		work.Wait()
	})
	work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer near.Close()
				far, err := net.Dial(network, address)
				if err != nil {
					return
				}
				defer far.Close()
				stop := context.AfterFunc(ctx, func() { _ = near.Close(); _ = far.Close() })
				defer stop()
				var both sync.WaitGroup
				both.Go(func() { carry(far, near, trip/2) })
				both.Go(func() { carry(near, far, trip/2) })
				both.Wait()
			})
		}
	})
	return l.Addr().String()
}

// carry takes what arrives to the other end, each piece so much later.
func carry(to, from net.Conn, delay time.Duration) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 10_000)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				pieces <- piece{buf[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			_ = from.Close()
		}
	}
	_ = to.Close()
}

// startFar starts a server whose store is a round trip of this time away.
func startFar(t *testing.T, trip time.Duration, args ...string) *fleet {
	t.Helper()
	f := startServers(t, 0)
	url := "redis://server:server@" + farAway(t, "unix", f.socket, trip)
	f.start(t, f.dir, "far", append([]string{"--store", url, "--log-decisions", "denied"}, args...)...)
	return f
}

// With a deadline that is long enough for the way, all customers may come at once to a server that
// knows none of them.
func TestColdKeysOfAFarStore(t *testing.T) {
	const customers = 500
	f := startFar(t, 45*time.Millisecond, "--deadline", "250ms")
	created := 0
	create := func() (secrets []string) {
		_, secrets = f.create(t, customers)
		created += customers
		// What is read while the word of a key's creation is on its way has to be read again.
		eventually(t, "the server has heard of all keys", func() bool { return f.metric(t, "tollgate_key_changes_total") == created })
		return secrets
	}
	// A machine that stops for a while says nothing about the server: one of three rounds has to be
	// in time.
	for n := range 3 {
		refused := firsts(t, f.replicas[0], create(), 2*time.Millisecond)
		t.Logf("%d of %d keys undecided", refused, customers)
		if refused == 0 {
			break
		}
		if n == 2 {
			t.Errorf("%d of %d keys undecided:\n%.3000s", refused, customers, f.log)
		}
	}
	if ready := f.ready(t); strings.Contains(ready, "far away") || strings.Contains(f.log.String(), "far away") {
		t.Errorf("it is said to be too far away: %s\n%s", ready, f.log)
	}
}

// A store that is farther away than the deadline allows is told of at start and in /readyz, with
// what was measured.
func TestStoreIsTooFarAway(t *testing.T) {
	f := startFar(t, 45*time.Millisecond, "--deadline", "100ms")
	told := regexp.MustCompile(`a round trip takes (\S+)ms; a key that is not in memory needs 3 of them, which --deadline 100ms allows up to 33.3ms each: give (1[5-9]|[2-9]\d)0ms or more`)
	for where, text := range map[string]string{"log": f.log.String(), "readyz": f.ready(t)} {
		found := told.FindStringSubmatch(text)
		if found == nil || !strings.Contains(text, "far away") {
			t.Errorf("%s:\n%s", where, text)
			continue
		}
		if trip, err := strconv.ParseFloat(found[1], 64); err != nil || trip < 45 {
			t.Errorf("%s: measured %v ms, %v", where, trip, err)
		}
	}
}

// ready returns what a server says of itself.
func (f *fleet) ready(t *testing.T) string {
	t.Helper()
	response, err := http.Get("http://" + f.http[0] + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		t.Fatal(response.Status, err)
	}
	return string(body)
}
