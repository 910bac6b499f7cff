package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// errTerminated is the cause of an end by SIGTERM, which supervisors send; SIGINT comes from
// a keyboard.
var errTerminated = errors.New("SIGTERM")

// untilSignal returns two contexts: stop ends at the first SIGTERM (its cause is
// errTerminated) or SIGINT and with ctx, stopNow at the second signal. release gives
// the signals back. Meanwhile it is an error to write where the reader has ended, which
// would end a Go program otherwise (https://pkg.go.dev/os/signal#hdr-SIGPIPE).
func untilSignal(ctx context.Context) (stop, stopNow context.Context, release func()) {
	stop, endStop := context.WithCancelCause(ctx)
	// The end of ctx is the wish to stop, not the wish to hurry.
	stopNow, endNow := context.WithCancel(context.WithoutCancel(ctx))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	noReader := make(chan os.Signal, 1) // nobody takes them out
	signal.Notify(noReader, syscall.SIGPIPE)
	released := make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for _, end := range []context.CancelCauseFunc{endStop, func(error) { endNow() }} {
			select {
			case s := <-signals:
				if s == syscall.SIGTERM {
					end(errTerminated)
				} else {
					end(nil)
				}
			case <-released:
				return
			}
		}
	}()
	return stop, stopNow, func() {
		signal.Stop(signals)
		signal.Stop(noReader)
		close(released)
		<-gone
		endStop(nil)
		endNow()
	}
}

// newLog returns the log that the settings ask for; they have been checked.
func newLog(s *options, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.logLevel))
	options := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
