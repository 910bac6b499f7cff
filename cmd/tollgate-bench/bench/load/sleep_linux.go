package load

import (
	"syscall"
	"time"
)

func sleep(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // woken early: the caller's next wait is longer
}
