//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns the CPU time of a process, user and kernel. It equals utime + stime of
// /proc/PID/stat, but these have a resolution of only 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED: the CPU time of the whole process
	clock := ^int32(pid)<<3 | sched
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// resident returns the resident memory of a process in bytes. The field is VmRSS for the
// current value or VmHWM for the peak since resetPeak.
func resident(pid int, field string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if value, found := bytes.CutPrefix(line, []byte(field+":")); found {
			value, _ = bytes.CutSuffix(bytes.TrimSpace(value), []byte(" kB"))
			kib, err := strconv.ParseFloat(string(value), 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/status: %s: %w", pid, field, err)
			}
			return kib * 1024, nil
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}

// resetPeak resets VmHWM to the current value.
func resetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset the memory peak: %w", err)
	}
	return nil
}

// otherFiles is the number of files open in this program, or in a server, besides connections.
const otherFiles = 1000

// allowConnections raises the limit of open files for this process and its children to n
// connections each. It returns the number they can have, which is lower than n if raising the
// limit is not permitted.
func allowConnections(n int) (allowed int, err error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	// Set the limit even if it is high enough, because the Go runtime raised it for this
	// process only and lowers it again for children.
	files := max(limit.Max, uint64(n+otherFiles))
	err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files})
	if err == syscall.EPERM {
		files = limit.Max
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files})
	}
	if err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return min(n, int(files)-otherFiles), nil
}

// raiseLimitHint returns instructions for allowing n connections.
func raiseLimitHint(n int) string {
	return fmt.Sprintf("for %s connections, root must first raise the limit of open files: prlimit --pid SHELL --nofile=%d",
		thousands(int64(n)), n+otherFiles)
}
