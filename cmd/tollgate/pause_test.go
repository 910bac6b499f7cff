package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/exit"
)

// toldWhen ends a context when something is written.
type toldWhen struct {
	strings.Builder
	end context.CancelFunc
}

func (w *toldWhen) Write(p []byte) (int, error) {
	w.end()
	return w.Builder.Write(p)
}

func TestPause(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &toldWhen{end: cancel}
	if code := run(ctx, []string{"pause"}, nil, io.Discard, stderr); code != exit.CodeOK || !strings.Contains(stderr.String(), "waiting for a signal") {
		t.Errorf("%d, %s", code, stderr.String())
	}
	if code := run(t.Context(), []string{"pause", "now"}, nil, io.Discard, io.Discard); code != exit.CodeUsage {
		t.Errorf("an argument: %d", code)
	}
}
