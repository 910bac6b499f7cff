package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/policyfile"
)

// maxTrials is the largest file of requests that is read, in bytes.
const maxTrials = 4 << 20

func newPolicyTest() *cobra.Command {
	var policies, file string
	cmd := &cobra.Command{
		Use:   "test --policy FILE|DIR (REQUEST | --requests FILE)",
		Short: "Try a policy with requests, without a server or a proxy",
		Long: `Try a policy with requests: which route, scope and cost each has, and whether a good
key may make it. A request is a line

  METHOD TARGET [host=HOST] [api=API] [environment=NAME] [scopes=A,B] [key=none]
         [-> [route=NAME] [scope=NAME] [cost=N] [reason=REASON]]

It comes with a key of the API that holds all scopes, or those of scopes=, or with
none. What follows -> is expected: "none" is no route or no scope. Lines that begin
with # are comments. Each request is printed with what came of it; the exit code is 1
if that is not what was expected of one. Limits are not spent.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, text := "request", []byte(strings.Join(args, ""))
			switch {
			case (len(args) == 1) == (file != ""):
				return errors.New("policy test: want a request, or --requests FILE")
			case file != "":
				var err error
				if text, err = readTrials(file); err != nil {
					return exit.Failed(err)
				}
				name = file
			}
			set, err := policyfile.Load(policies)
			if err != nil {
				return exit.Failed(err)
			}
			return tryAll(cmd, set, name, text)
		},
	}
	cmd.Flags().StringVar(&policies, "policy", "", "policy file, or directory of policy files")
	cmd.Flags().StringVar(&file, "requests", "", "file of requests, one a line")
	_ = cmd.MarkFlagRequired("policy")
	return cmd
}

func readTrials(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTrials+1))
	if err == nil && len(text) > maxTrials {
		err = fmt.Errorf("%s is larger than %d MiB", name, maxTrials>>20)
	}
	return text, err
}

func tryAll(cmd *cobra.Command, set *policy.Set, name string, text []byte) error {
	tried, wrong := 0, 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 64<<10)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		tried++
		got, mismatch, err := try(set, line)
		request, _, expected := strings.Cut(line, "->")
		request = strings.TrimSpace(request)
		switch {
		case err != nil:
			wrong++
			cmd.PrintErrf("%s:%d: %v\n", name, n, err)
		case mismatch != "":
			wrong++
			cmd.PrintErrf("%s:%d: %s: %s, want %s\n", name, n, request, got, mismatch)
		default:
			if expected {
				request = "ok " + request
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", request, got); err != nil {
				return exit.Failed(err)
			}
		}
	}
	switch {
	case lines.Err() != nil:
		return exit.Failed(fmt.Errorf("%s: %w", name, lines.Err()))
	case tried == 0:
		return exit.Failed(fmt.Errorf("%s holds no request", name))
	case wrong > 0:
		return &exit.Failure{}
	}
	return nil
}

// try returns what came of a request, and which of the expectations it misses.
func try(set *policy.Set, line string) (got, mismatch string, err error) {
	request, expected, _ := strings.Cut(line, "->")
	t, err := parseTrial(request)
	if err != nil {
		return "", "", err
	}
	out, err := set.Try(t)
	if err != nil {
		return "", "", err
	}
	fields := []string{
		"route=" + orNone(out.Route), "scope=" + orNone(out.Scope),
		"cost=" + strconv.FormatInt(out.Cost, 10), "reason=" + out.Reason.String(),
	}
	var missed []string
	for _, want := range strings.Fields(expected) {
		name, _, _ := strings.Cut(want, "=")
		switch {
		case !slices.Contains([]string{"route", "scope", "cost", "reason"}, name):
			return "", "", fmt.Errorf("unknown expectation %q, want route=, scope=, cost= or reason=", want)
		case !slices.Contains(fields, want):
			missed = append(missed, want)
		}
	}
	return strings.Join(fields, " "), strings.Join(missed, " "), nil
}

func orNone(name string) string {
	if name == "" {
		return "none"
	}
	return name
}

func parseTrial(line string) (policy.Trial, error) {
	words := strings.Fields(line)
	if len(words) < 2 || !strings.HasPrefix(words[1], "/") {
		return policy.Trial{}, fmt.Errorf("bad request %q, want METHOD /PATH", strings.TrimSpace(line))
	}
	t := policy.Trial{Method: words[0], Target: words[1]}
	for _, word := range words[2:] {
		name, value, _ := strings.Cut(word, "=")
		switch {
		case name == "host":
			t.Host = value
		case name == "api":
			t.API = value
		case name == "environment":
			t.Environment = value
		case name == "scopes":
			t.Scopes = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case word == "key=none":
			t.Keyless = true
		default:
			return t, fmt.Errorf("unknown word %q, want host=, api=, environment=, scopes= or key=none", word)
		}
	}
	return t, nil
}
