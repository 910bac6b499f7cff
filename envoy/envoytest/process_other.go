//go:build !linux

package envoytest

import "syscall"

// attributes leaves Envoy in our process group: without Linux's parent-death signal, Ctrl-C in a
// terminal must reach it directly.
func attributes() *syscall.SysProcAttr { return nil }
