package clickhouse_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
)

func noon() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }

// delta is what a key did at noon: n requests to a route.
func delta(key, route string, n uint64) *usage.Delta {
	hour := usage.HourOf(noon())
	return &usage.Delta{
		Subject: usage.Subject{API: "jobs", Key: key}, Team: "red", Day: hour.Day(),
		Decided: []usage.RouteHour{{Route: route, Hour: hour, Decided: usage.Decided{Allowed: n, Cost: n}}},
	}
}

// standIn stands where ClickHouse should, for what goes wrong there, and adds up what is inserted
// as the real one does: each token once.
type standIn struct {
	*httptest.Server
	before func(n int, w http.ResponseWriter, r *http.Request) (done bool) // nil for nothing; n from 1
	after  func(n int, w http.ResponseWriter) (done bool)

	mu     sync.Mutex
	calls  int
	bodies map[string][]byte // by token and table
	tokens []string          // of every try
	rows   map[string]int
	sums   map[string]map[string]uint64 // by table and column
}

func newStandIn(t *testing.T) *standIn {
	s := &standIn{bodies: map[string][]byte{}, rows: map[string]int{}, sums: map[string]map[string]uint64{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(t, w, r) }))
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) serve(t *testing.T, w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	args, n := r.URL.Query(), s.calls
	s.tokens = append(s.tokens, args.Get("insert_deduplication_token"))
	if s.before != nil && s.before(n, w, r) {
		return
	}
	table := strings.Fields(args.Get("query"))[2]
	id := table + " " + args.Get("insert_deduplication_token")
	if known, ok := s.bodies[id]; ok {
		if !bytes.Equal(known, body) {
			t.Errorf("%s came with other bytes", id)
		}
	} else {
		s.bodies[id] = body
		s.add(t, table, body)
	}
	if s.after != nil {
		s.after(n, w)
	}
}

func (s *standIn) add(t *testing.T, table string, body []byte) {
	if s.sums[table] == nil {
		s.sums[table] = map[string]uint64{}
	}
	for line := range bytes.Lines(body) {
		var row map[string]any
		if err := json.Unmarshal(line, &row); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		s.rows[table]++
		for column, value := range row {
			if n, ok := value.(float64); ok {
				s.sums[table][column] += uint64(n)
			}
		}
	}
}

// sum returns what was inserted: rows of both tables, and the requests that were allowed.
func (s *standIn) sum() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d rows, %d; %d rows, %d", s.rows["usage_hour"], s.sums["usage_hour"]["allowed"], s.rows["usage_day"], s.sums["usage_day"]["allowed"])
}

func open(t *testing.T, address string) *clickhouse.Client {
	t.Helper()
	c, err := clickhouse.Open(address, "secret")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// at puts a user and a database into an address.
func at(t *testing.T, address, database string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.User("tollgate"), "/"+database
	return u.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
