package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy/envoytest"
)

// told is what tollgate check says of a request, as far as a client and an application see it.
type told struct {
	Allowed bool
	Reason  string
	Reply   struct {
		Status  int
		Headers [][2]string
		Body    string
	}
	Pass struct {
		Set      [][2]string
		Removed  []string
		Response [][2]string
	}
}

// usage: same REASON METHOD URL KEY [ARGS...]. What tollgate check says of a request, with
// these arguments, is what a real Envoy then answers to it, or hands to the application. KEY is -
// for none. The clock may reach another second in between, which some answers tell: then both are
// asked again.
func same(ts *testscript.TestScript, _ bool, args []string) {
	reason, method, key := args[0], args[1], args[3]
	host, target, _ := strings.Cut(strings.TrimPrefix(args[2], "https://"), "/")
	request := envoytest.Request{Method: method, Target: "/" + target, Host: host}
	command := append([]string{"check", "--host", host, "--method", method, "--path", "/" + target, "-o", "json"}, args[4:]...)
	if key == "-" {
		command = append(command, "--no-key")
	} else {
		request.Headers = [][2]string{{"authorization", "Bearer " + key}}
	}
	problem := ""
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		before := ask(ts, command, key)
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		response, err := request.SendH1(ctx, ts.Getenv("ENVOY"), false)
		ts.Check(err)
		if problem = differs(before, response); problem == "" && before.Reason != reason {
			problem = "both say " + before.Reason
		}
		return problem == ""
	}) {
		ts.Fatalf("%s: %s", args, problem)
	}
}

// ask runs tollgate check with the variables of the script.
func ask(ts *testscript.TestScript, args []string, key string) (t told) {
	cmd := exec.Command("tollgate", args...)
	cmd.Dir, cmd.Stdin, cmd.Env = ts.MkAbs("."), strings.NewReader(key), os.Environ()
	for _, name := range []string{"XDG_RUNTIME_DIR", "TOLLGATE_POLICY"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if json.Unmarshal(stdout.Bytes(), &t) != nil || (err == nil) != t.Allowed {
		ts.Fatalf("%s: %v: %s%s", args, err, stdout.String(), stderr.String())
	}
	return t
}

// differs says what of an answer is not what was told, "" if all is.
func differs(t told, response *envoytest.Response) string {
	if !t.Allowed {
		if got := string(response.Body); response.Status != t.Reply.Status || got != t.Reply.Body {
			return fmt.Sprintf("told %d %s, got %d %s", t.Reply.Status, t.Reply.Body, response.Status, got)
		}
		return missing(t.Reply.Headers, response.Value)
	}
	var received envoytest.Received
	if err := json.Unmarshal(response.Body, &received); response.Status != 200 || err != nil {
		return fmt.Sprintf("told that it is allowed, got %d %s", response.Status, response.Body)
	}
	for _, name := range t.Pass.Removed {
		if value, ok := received.Value(name); ok {
			return fmt.Sprintf("told that %s is removed, and the application got %q", name, value)
		}
	}
	if problem := missing(t.Pass.Set, received.Value); problem != "" {
		return problem
	}
	return missing(t.Pass.Response, response.Value)
}

// missing says which of some headers has not the value that was told.
func missing(told [][2]string, value func(string) (string, bool)) string {
	at := slices.IndexFunc(told, func(h [2]string) bool {
		got, ok := value(h[0])
		return !ok || got != h[1]
	})
	if at < 0 {
		return ""
	}
	got, _ := value(told[at][0])
	return fmt.Sprintf("told %s, got %q", told[at], got)
}
