package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tollgate/policy/usage/clickhouse/clickhousetest"
)

// usage: clickhouse DATABASE STATEMENT | clickhouse DATABASE -f FILE. It prints the answers of the
// engine at $CLICKHOUSE; a file has several statements, and comments, as clickhouse-client takes
// them.
func clickhouseCommand(ts *testscript.TestScript, _ bool, args []string) {
	statements := args[1:]
	if statements[0] == "-f" {
		text, _, _ := strings.Cut(ts.ReadFile(statements[1]), "\n/*")
		statements = strings.Split(text, ";\n")
	}
	for _, statement := range statements {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		answer, err := clickhousetest.Run(ts.Getenv("CLICKHOUSE"), strings.Trim(args[0], "-"), statement)
		ts.Check(err)
		_, err = ts.Stdout().Write([]byte(answer))
		ts.Check(err)
	}
}

// usage: hanging VARIABLE. It sets the variable to an address that takes connections and never
// answers.
func startHanging(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// startSink starts what stands for ClickHouse where pages are tried: it takes all and knows
// nothing.
func startSink(t *testing.T) (address string) {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
