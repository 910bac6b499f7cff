//go:build !linux

package bench

import (
	"errors"
	"runtime"
	"syscall"
	"time"
)

// errNoProcessFigures says that this system does not tell what is measured here.
var errNoProcessFigures = errors.New("measuring other processes needs Linux")

func attributes() *syscall.SysProcAttr { return nil }

func cpuTime(int) (time.Duration, error) { return 0, errNoProcessFigures }

func residentBytes(int) (float64, error) { return 0, errNoProcessFigures }

func machine() string { return runtime.GOOS + "/" + runtime.GOARCH }
