//go:build !linux

package bench

import (
	"runtime"
	"syscall"
	"time"
)

func attributes() *syscall.SysProcAttr { return nil }

func cpuTime(int) (time.Duration, error) { return 0, errNoProcessFigures }

func residentBytes(int) (float64, error) { return 0, errNoProcessFigures }

func machine() string { return runtime.GOOS + "/" + runtime.GOARCH }
