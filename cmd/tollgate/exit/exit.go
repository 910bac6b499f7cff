// Package exit tells failures from mistakes of the caller, and has the exit code of each.
package exit

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes.
const (
	CodeOK = iota
	CodeFailure
	CodeUsage
	CodeUnconfirmed // revoked, but no replica of the store has confirmed it, or a server has not heard of it
)

// Failure marks an error that is not a mistake of the caller, so that Report can
// tell the two exit codes apart. Without Err, the command has said what failed.
type Failure struct {
	Err  error
	Code int // 0 = CodeFailure
}

// Error returns the text of the cause.
func (f *Failure) Error() string {
	if f.Err == nil {
		return "failed"
	}
	return f.Err.Error()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Failed marks an error as a failure; nil stays nil.
func Failed(err error) error {
	if err == nil {
		return nil
	}
	return &Failure{Err: err}
}

// Report prints an error once and returns the exit code.
func Report(err error, stderr io.Writer) int {
	if err == nil {
		return CodeOK
	}
	var failed *Failure
	if !errors.As(err, &failed) {
		_, _ = fmt.Fprintf(stderr, "tollgate: %v\n", err)
		return CodeUsage
	}
	if failed.Err != nil {
		_, _ = fmt.Fprintf(stderr, "tollgate: %v\n", err)
	}
	return max(failed.Code, CodeFailure)
}

// Plain is an error without the name of the package.
func Plain(err error) error { return plainError{err} }

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
