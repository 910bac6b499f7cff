package envoytest

import "syscall"

// attributes makes Envoy die with us even when nobody calls Stop (a panic, a test that ran out of
// time), and puts it into a process group of its own: Ctrl-C in a terminal reaches us alone, and we
// stop things in our own order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
