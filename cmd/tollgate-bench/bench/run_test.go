package bench

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tollgate/cmd/tollgate-bench/bench/load"
)

// noInput is where jobs go that nobody makes.
type noInput struct{ io.Writer }

func (noInput) Close() error { return nil }

// Two sizes of a growth can be the same, and have the same id then: each keeps its
// samples all the same. The load's answers are written down, so that each sample tells
// when it was taken; processes would make it no other.
func TestPairTellsEqualCasesApart(t *testing.T) {
	if _, err := cpuTime(os.Getpid()); err != nil {
		t.Skip(err)
	}
	metrics := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer metrics.Close()
	self := &process{name: "this test", cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}, log: &tail{}, in: noInput{io.Discard}}
	var answers strings.Builder
	for n := range uint64(9) { // one to warm up, and two for each of four samples
		if err := json.NewEncoder(&answers).Encode(load.Result{Calls: n + 1, Allowed: n + 1}); err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{Options: Options{Progress: io.Discard}, load: self, results: bufio.NewReader(strings.NewReader(answers.String())),
		subjects: map[string]*subject{stock: {process: self, HTTP: strings.TrimPrefix(metrics.URL, "http://")}}}
	same := turn{testCase: testCase{id: "growth, 1", server: stock}}
	own, base, err := b.pair(t.Context(), same, same, 2)
	if err != nil {
		t.Fatal(err)
	}
	checks := func(samples []sample) (list []float64) {
		for _, s := range samples {
			list = append(list, s.checks)
		}
		return list
	}
	if !slices.Equal(checks(own), []float64{5, 7}) || !slices.Equal(checks(base), []float64{3, 9}) {
		t.Errorf("samples %v beside %v", checks(own), checks(base))
	}
}
