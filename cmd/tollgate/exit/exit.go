package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitUnconfirmed // revoked, but no replica of the store has confirmed it, or a server has not heard of it
)

// failure marks an error that is not a mistake of the caller, so that run can
// tell the two exit codes apart. Without err, the command has said what failed.
type failure struct {
	err  error
	code int // 0 = exitFailure
}

// Error returns the text of the cause.
func (f *failure) Error() string {
	if f.err == nil {
		return "failed"
	}
	return f.err.Error()
}

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err: err}
}

// report prints an error once and returns the exit code.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	var failed *failure
	if !errors.As(err, &failed) {
		_, _ = fmt.Fprintf(stderr, "tollgate: %v\n", err)
		return exitUsage
	}
	if failed.err != nil {
		_, _ = fmt.Fprintf(stderr, "tollgate: %v\n", err)
	}
	return max(failed.code, exitFailure)
}

// plain is an error without the name of the package.
func plain(err error) error { return plainError{err} }

type plainError struct{ err error }

// Error returns the text for people.
func (e plainError) Error() string {
	lines := strings.Split(e.err.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "keys: ")
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the cause.
func (e plainError) Unwrap() error { return e.err }
