package main

import (
	"strings"
	"testing"
	"time"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/connect/redistest"
)

// envoyEdit changes the shipped bootstrap, in which each old text must be.
func envoyEdit(t *testing.T, oldNew ...string) func(string) string {
	t.Helper()
	return func(file string) string {
		for i := 0; i < len(oldNew); i += 2 {
			if !strings.Contains(file, oldNew[i]) {
				t.Fatalf("the bootstrap has no %q", oldNew[i])
			}
			file = strings.ReplaceAll(file, oldNew[i], oldNew[i+1])
		}
		return "node: {id: edge-of-the-test, cluster: edge}\n" + file
	}
}

// withoutAccessLog takes the access log to Tollgate out of the bootstrap.
func withoutAccessLog(t *testing.T) func(string) string {
	edit := envoyEdit(t)
	return func(file string) string {
		before, rest, _ := strings.Cut(file, "          # Tells Tollgate how each request ended")
		_, after, found := strings.Cut(rest, "          # Requests that last")
		if !found {
			t.Fatal("the bootstrap has no such access log")
		}
		return edit(before + "          # Requests that last" + after)
	}
}

// What tollgate doctor access-log says of real Envoys: as shipped, and with what can be wrong.
func TestDoctorThroughEnvoy(t *testing.T) {
	redistest.Need(t)
	seldom := []string{"access_log_flush_interval: 20s", "access_log_flush_interval: 60s"}
	for name, c := range map[string]struct {
		edit  func(string) string
		holds time.Duration // for how long a request is under way
		says  []string      // the exit code is 0 if this is ok
	}{
		"as shipped": {envoyEdit(t, "access_log_flush_interval: 20s", "access_log_flush_interval: 0.4s"), 2 * time.Second,
			[]string{"edge-of-the-test", "127.0.0.1", "api jobs: silent about a request for ", "a third of max_duration is 1.0 s", "\nok\n"}},
		"without the access log": {withoutAccessLog(t), 0, []string{"problem: no access log arrives; 5 requests were decided\n",
			"  Envoy: add the access log envoy.access_loggers.http_grpc of envoy/envoy.yaml", "  Istio: apply k8s/access-log/istio.yaml", "  Envoy Gateway: apply k8s/access-log/envoy-gateway.yaml"}},
		"another name": {envoyEdit(t, "log_name: tollgate", "log_name: others"), 0, []string{`problem: access logs arrive that are named "others"; only one with log_name tollgate is read`}},
		"without our metadata": {envoyEdit(t, "status_on_error: {code: ServiceUnavailable}", "status_on_error: {code: ServiceUnavailable}\n              enable_dynamic_metadata_ingestion: false"), 0,
			[]string{"problem: the log of Envoy edge-of-the-test (127.0.0.1): none of its 5 entries has the metadata of a decision\n", "enable_dynamic_metadata_ingestion on"}},
		"seldom": {envoyEdit(t, seldom...), 2 * time.Second, []string{"problem: api jobs: the log was silent about a request for 2.", "more than a third of max_duration (1.0 s)",
			"access_log_options: {access_log_flush_interval: 1s} or less"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHeldBehind(t, jobsPolicy(t, 1_000_000, 50, "3s"), c.edit, "tollgate", "tollgate")
			servers := h.replicas[0].http(t) + "," + h.replicas[1].http(t)
			if code, said, _ := command(t, "doctor", "access-log", "--server", servers, "--watch", "0s"); code != exit.CodeFailure || !strings.Contains(said, "problem: no request has been decided yet") {
				t.Errorf("at first: %d, %s", code, said)
			}
			for range 5 {
				if status := h.ask(t, "/v1/jobs/fast"); status != 200 {
					t.Fatalf("status %d", status)
				}
			}
			want, code, said := exit.CodeFailure, 0, ""
			if c.says[len(c.says)-1] == "\nok\n" {
				want = exit.CodeOK
			}
			eventually(t, strings.Join(c.says, " … "), func() bool {
				if c.holds > 0 { // until it is one of a worker of Envoy whose stream was open before
					ended := h.start(t)
					time.AfterFunc(c.holds, func() { h.end <- struct{}{} })
					<-ended
				}
				code, said, _ = command(t, "doctor", "access-log", "--server", servers, "--watch", "10ms")
				return code == want && containsAll(said, c.says)
			})
			for _, path := range []string{"fast", "key_jobs", outageKey} {
				if strings.Contains(said, path) {
					t.Errorf("%s is said:\n%s", path, said)
				}
			}
		})
	}
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}
