package connect_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// lossy is a one-node cluster that carries out what it is told, and then loses or replaces the
// reply.
type lossy struct {
	listener net.Listener
	answer   func(command string, n int) string // n counts from 1; "" ends the connection

	mu   sync.Mutex
	seen map[string]int
}

func startLossy(t *testing.T, answer func(string, int) string) *lossy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &lossy{listener: l, answer: answer, seen: map[string]int{}}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer conn.Close(); s.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return s
}

func (s *lossy) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		name := strings.ToLower(args[0])
		reply := ""
		s.mu.Lock()
		s.seen[name]++
		n := s.seen[name]
		s.mu.Unlock()
		switch name {
		case "hello":
			reply = "-ERR unknown command\r\n"
		case "cluster":
			host, port, _ := net.SplitHostPort(s.listener.Addr().String())
			reply = fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$%d\r\n%s\r\n:%s\r\n$2\r\nme\r\n", len(host), host, port)
		default:
			reply = s.answer(name, n)
		}
		if reply == "" {
			return
		}
		if _, err := io.WriteString(conn, reply); err != nil {
			return
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readLength(r, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readLength(r, '$')
		if err != nil {
			return nil, err
		}
		text := make([]byte, size+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		args[i] = string(text[:size])
	}
	return args, nil
}

func readLength(r *bufio.Reader, mark byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil || line[0] != mark {
		return 0, fmt.Errorf("want %c: %q %w", mark, line, err)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

func (s *lossy) times(command string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[command]
}

// A spend that was carried out and whose reply was lost must not be sent again, on any topology and
// in any form.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	closes := func(string, int) string { return "" }
	loading := func(string, int) string { return "-LOADING Redis is loading the dataset in memory\r\n" }
	// What go-redis repeats as a whole: the first command of a pipeline is refused, the second was
	// carried out.
	mixed := func(command string, _ int) string {
		if command == "get" {
			return "-CLUSTERDOWN The cluster is down\r\n"
		}
		return ":1\r\n"
	}
	for _, scheme := range []string{"redis://", "redis+cluster://"} {
		for name, answer := range map[string]func(string, int) string{"closed": closes, "loading": loading, "mixed": mixed} {
			for _, form := range []string{"command", "pipeline", "transaction"} {
				t.Run(scheme+" "+name+" "+form, func(t *testing.T) {
					s := startLossy(t, answer)
					c := open(t, scheme+s.listener.Addr().String())
					err := sendIncrement(t.Context(), c, form)
					if n := s.times("incr"); n > 1 {
						t.Errorf("sent %d times", n)
					}
					if err == nil && (name != "mixed" || form == "transaction") {
						t.Error("no error")
					}
				})
			}
		}
	}
}

func sendIncrement(ctx context.Context, c redis.UniversalClient, form string) error {
	fill := func(p redis.Pipeliner) error {
		p.Get(ctx, "{a}x")
		p.Incr(ctx, "{a}")
		return nil
	}
	var err error
	switch form {
	case "command":
		err = c.Incr(ctx, "{a}").Err()
	case "pipeline":
		_, err = c.Pipelined(ctx, fill)
	case "transaction":
		_, err = c.TxPipelined(ctx, fill)
	}
	return err
}

// A node that does not answer makes the client ask who has its slots now; an error that Redis
// answers with does not.
func TestMastersAreLookedForAgain(t *testing.T) {
	t.Parallel()
	s := startLossy(t, func(command string, _ int) string {
		if command == "get" {
			return "-ERR no\r\n"
		}
		return ""
	})
	c := open(t, "redis+cluster://"+s.listener.Addr().String())
	for range 3 {
		if err := c.Get(t.Context(), "a").Err(); err == nil {
			t.Fatal("no error")
		}
	}
	if n := s.times("cluster"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if err := c.Incr(t.Context(), "a").Err(); err == nil {
		t.Fatal("no error")
	}
	await(t, "the client asks again", func(context.Context) bool { return s.times("cluster") > 1 })
}
