// Package clickhousetest runs ClickHouse's real engine for tests: PyPI's chdb has it, and front.py
// puts as much of the HTTP interface around it as Tollgate uses.
package clickhousetest

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed front.py
var front string

// User and Password are those that the server asks for.
const (
	User     = "tollgate"
	Password = "secret"
)

// startTime bounds the start: the engine alone needs three seconds.
const startTime = time.Minute

// Server is a running engine.
type Server struct {
	Host string // and port
	t    testing.TB
}

// Start starts the engine until the test ends. Without chdb it skips the test loudly, or fails it
// where TOLLGATE_REQUIRE has clickhouse.
func Start(t testing.TB) *Server {
	t.Helper()
	python := pythonOf(t)
	cmd := exec.Command(python, "-c", front, t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // which ends it
		_ = cmd.Wait()
	})
	port := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		port <- strings.TrimSpace(line)
	}()
	select {
	case p := <-port:
		if p == "" {
			t.Fatal("clickhousetest: the engine has ended")
		}
		return &Server{Host: "127.0.0.1:" + p, t: t}
	case <-time.After(startTime):
		t.Fatal("clickhousetest: the engine does not start")
	}
	return nil
}

// pythonOf finds the interpreter that has chdb, in .tools of the repository.
func pythonOf(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			t.Fatal("clickhousetest: no go.mod above")
		}
		dir = filepath.Dir(dir)
	}
	found, _ := filepath.Glob(filepath.Join(dir, ".tools", "chdb*", "bin", "python"))
	if len(found) > 0 {
		return found[len(found)-1]
	}
	const problem = "no ClickHouse engine in .tools; make test-clickhouse gets it"
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "clickhouse") {
		t.Fatal(problem)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s", problem)
	return ""
}

// Run runs one statement in a database, "" for none, and returns its answer.
func (s *Server) Run(database, statement string) string {
	s.t.Helper()
	answer, err := Run(s.Host, database, statement)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}

// Run does the same on a server that somebody else has started.
func Run(host, database, statement string) (string, error) {
	args := url.Values{"query": {statement}}
	if database != "" {
		args.Set("database", database)
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+host+"/?"+args.Encode(), nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("X-ClickHouse-User", User)
	request.Header.Set("X-ClickHouse-Key", Password)
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	answer, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("%.80s: %d %s", statement, reply.StatusCode, answer)
	}
	return string(answer), err
}
