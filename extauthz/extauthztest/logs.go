package extauthztest

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// Logs gathers the server's log and looks for what must never be in it.
type Logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends p.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns what was logged.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// MustNotHold fails the test if the log has one of the secrets, or nothing at all.
func (l *Logs) MustNotHold(t *testing.T, secrets map[string]string) {
	t.Helper()
	text := l.String()
	if text == "" {
		t.Error("nothing was logged")
	}
	for id, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("the log holds the secret of %s", id)
		}
	}
}
