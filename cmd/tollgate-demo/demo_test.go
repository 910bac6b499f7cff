package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy/envoytest"
	"tollgate/testdata"
)

// Every printed line, pasted into a shell, is answered with the status above it,
// and Ctrl-C leaves nothing behind.
func TestDemoLines(t *testing.T) {
	_, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	tmp, binary := t.TempDir(), tollgatetest.Build(t)
	t.Setenv("TMPDIR", tmp)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, stderr := &tollgatetest.Screen{}, &tollgatetest.Screen{}
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"--port", "0", "--binary", binary}, out, stderr) }()
	// The demo bounds each part of its start by itself, and says which one took too long. This wait
	// is longer than all of them.
	ended := false
	shown := tollgatetest.Within(ctx, 2*(serverStart+demoStart+shotTimeout), func() bool {
		ended = len(code) > 0
		return ended || strings.Contains(out.String(), "# 500 internal-error")
	})
	if !shown || ended {
		t.Fatalf("no curl lines; ended: %t, printed %q and %q", ended, out.String(), stderr.String())
	}

	lines := strings.Split(out.String(), "\n")
	tried := 0
	for i, line := range lines {
		if !strings.HasPrefix(line, "curl ") {
			continue
		}
		tried++
		want := strings.Fields(strings.TrimPrefix(lines[i-1], "# "))[0]
		got, err := exec.Command("sh", "-c", line+" -sS -o /dev/null -w '%{http_code}'").Output()
		if err != nil || !strings.HasSuffix(string(got), strings.TrimSuffix(want, ":")) {
			t.Errorf("%s\n%s: got %s, %v", lines[i-1], line, got, err)
		}
	}
	if tried < 4*4 {
		t.Errorf("only %d lines:\n%s", tried, out.String())
	}
	interrupt()
	if got := <-code; got != 0 || stderr.String() != "" {
		t.Errorf("exit %d, stderr %q", got, stderr.String())
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// Every answer of the four APIs is right.
func TestDemoOnce(t *testing.T) {
	_, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	var out, stderr bytes.Buffer
	code := run(t.Context(), []string{"--once", "--port", "0", "--binary", tollgatetest.Build(t)}, &out, &stderr)
	text := out.String()
	if code != 0 || stderr.Len() > 0 || strings.ContainsAny(text, "✗\x1b") || !strings.Contains(text, "answers are right. The first came after") {
		t.Errorf("exit %d, %s\n%s", code, text, &stderr)
	}
	for _, api := range testdata.APIs() {
		if !regexp.MustCompile(`(?m)^` + api + ` .*✓$`).MatchString(text) {
			t.Errorf("no right answer of %s:\n%s", api, text)
		}
	}
}

func TestDemoWithoutEnvoy(t *testing.T) {
	t.Setenv("ENVOY_BIN", "/nonexistent/envoy")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), nil, &stdout, &stderr); code != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "ENVOY_BIN") {
		t.Errorf("exit %d, %q, %q", code, &stdout, &stderr)
	}
}

func TestBadFlags(t *testing.T) {
	for want, args := range map[string][]string{
		"--port: 70000 is no port": {"--port", "70000"}, "unknown flag": {"--nonsense"}, "unknown command": {"extra"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%q: exit %d, %q, want %q", args, code, &stderr, want)
		}
	}
}

func TestWrongAnswersAreSeen(t *testing.T) {
	denied := func(status int, body string) *shot {
		return &shot{block: testdata.Block{Status: status, WantBody: &body}}
	}
	answer := func(status int, body string) *envoytest.Response {
		return &envoytest.Response{Status: status, Body: []byte(body), Headers: [][2]string{{"x-request-id", "id-1"}}}
	}
	for _, c := range []struct {
		name string
		want *shot
		got  *envoytest.Response
		ok   bool
	}{
		{"the same", denied(401, `{"a":1}`), answer(401, `{"a":1}`), true},
		{"another status", denied(401, `{"a":1}`), answer(403, `{"a":1}`), false},
		{"another body", denied(401, `{"a":1}`), answer(401, `{"a":2}`), false},
		{"request id", denied(500, `{"id":"${request_id}"}`), answer(500, `{"id":"id-1"}`), true},
		{"another request id", denied(500, `{"id":"${request_id}"}`), answer(500, `{"id":"id-2"}`), false},
		{"seconds in a 429", denied(429, `{"retry_after":1}`), answer(429, `{"retry_after":42}`), true},
		{"seconds in a text", denied(429, `wait 1 seconds`), answer(429, `wait 42 seconds`), true},
		{"other numbers in a 429", denied(429, `{"limit":1,"retry_after":1}`), answer(429, `{"limit":2,"retry_after":1}`), false},
		{"seconds in a 403", denied(403, `{"retry_after":1}`), answer(403, `{"retry_after":42}`), false},
		{"allowed", &shot{block: testdata.Block{Status: 200}}, answer(200, "anything"), true},
		{"denied instead", &shot{block: testdata.Block{Status: 200}}, answer(403, "anything"), false},
	} {
		if got := c.want.right(c.got); got != c.ok {
			t.Errorf("%s: %v, want %v", c.name, got, c.ok)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "plain-1.2/x:y=z": "plain-1.2/x:y=z", "two words": "'two words'", "it's": `'it'\''s'`,
		"$(id)": "'$(id)'", "a&b?c=1": "'a&b?c=1'", "\xff0'\\": `$'\3770\'\\'`, "\n": `$'\012'`,
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}
