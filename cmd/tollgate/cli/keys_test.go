package cli

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
)

func TestMoments(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for text, want := range map[string]string{
		"":                          "0001-01-01T00:00:00Z",
		"90d":                       "2025-12-04T05:06:07Z",
		"12h":                       "2026-03-03T17:06:07Z",
		"2026-01-31":                "2026-01-31T00:00:00Z",
		"2026-01-31T12:00:00+02:00": "2026-01-31T10:00:00Z",
	} {
		if got, err := moment("x", text, now); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"d", "1.5d", "soon", "2026-13-01", "99999999d", "90"} {
		if got, err := moment("x", text, now); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestLimitsAndAddresses(t *testing.T) {
	for _, text := range []string{"minute", "minute=", "=5", "minute=many", "minute=1.5", "", "=none"} {
		if got, _, err := parseLimits([]string{text}); err == nil {
			t.Errorf("--limit %q is taken as %v", text, got)
		}
	}
	for _, texts := range [][]string{{"minute=10", ""}, {"minute=10", "none"}, {"minute=10", "minute=none"}} {
		if got, _, err := parseLimits(texts); err == nil {
			t.Errorf("--limit %q is taken as %v", texts, got)
		}
	}
	got, none, err := parseLimits([]string{"minute=10", "day=none"})
	want := []admin.LimitChange{{Override: keys.Override{Name: "minute", Requests: 10}}, {Override: keys.Override{Name: "day"}, Remove: true}}
	if err != nil || none || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, none, err := parseLimits([]string{"none"}); len(got) > 0 || !none || err != nil {
		t.Errorf("none: %v, %v, %v", got, none, err)
	}
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "10.0.0.0/8": "10.0.0.0/8", " 2001:db8::/32 ": "2001:db8::/32",
	} {
		if got, err := parseIPs([]string{text}); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("--ips %q is taken as %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"localhost", "10.0.0.0/33", "fe80::1%eth0", "10.0.0"} {
		if got, err := parseIPs([]string{text}); err == nil {
			t.Errorf("--ips %q is taken as %v", text, got)
		}
	}
}

// A secret that nobody will see again must not get lost silently.
func TestASecretThatCannotBePrinted(t *testing.T) {
	a := &access{output: output.JSON}
	cmd := newCreate(a)
	cmd.SetOut(brokenPipe{})
	err := a.showSecret(cmd, &keys.Key{ID: "key_0123456789abcdef"}, "pb_secret", "", nil)
	var f *exit.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), "key_0123456789abcdef is made, but its secret could not be printed") {
		t.Errorf("got %v", err)
	}
	var out bytes.Buffer
	cmd.SetOut(&out)
	lost := errors.New("outcome lost")
	if err := a.showSecret(cmd, &keys.Key{ID: "key_0123456789abcdef"}, "pb_secret", "", lost); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	if want := `{"id":"key_0123456789abcdef","secret":"pb_secret"}` + "\n"; out.String() != want {
		t.Errorf("printed %q beside an error, want %q", out.String(), want)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestVerifyReadsNoWholeDisk(t *testing.T) {
	if _, err := readSecret(strings.NewReader(strings.Repeat("x", maxPasted+1)), &bytes.Buffer{}); err == nil {
		t.Error("a long input is taken as a secret")
	}
	if got, err := readSecret(strings.NewReader(" pb_x\n"), &bytes.Buffer{}); err != nil || got != " pb_x\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out, true)
	b.show(admin.Progress{Done: 500, Total: 1000, Rate: 250, ETA: 2 * time.Second})
	b.show(admin.Progress{Done: 501, Total: 1000, Rate: 250, ETA: 2 * time.Second}) // too soon for another line
	b.show(admin.Progress{Done: 1000, Total: 1000, Rate: 250})
	want := "[###############...............] 50 % of 1000, 250/s, 2s left\n[##############################] 100 % of 1000, 250/s, 0s left\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if newBar(&out, false) != nil {
		t.Error("progress is shown unasked where there is no terminal")
	}
}
