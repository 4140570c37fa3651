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

// cpuTime returns the CPU time that a process has taken, in user and kernel. It is what
// utime and stime in /proc/PID/stat are, only that those count in ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED: what the scheduler has given the whole process
	clock := ^int32(pid)<<3 | sched
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// resident returns the memory of a process that is in RAM, in bytes: now ("VmRSS") or at the
// highest since resetPeak ("VmHWM").
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

// resetPeak makes VmHWM begin anew.
func resetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset the peak of the memory: %w", err)
	}
	return nil
}

// otherFiles is how many files this program, or a server, has open beside connections.
const otherFiles = 1000

// allowConnections raises the limit of open files, for this process and for its children, so
// that each can have so many connections. If that is not permitted it returns how many they
// can have.
func allowConnections(n int) (allowed int, err error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	// To be set even if it is high enough: the Go runtime has raised it for this process
	// alone, and would lower it again for children.
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

// howToAllow says what to do for so many connections.
func raiseLimitHint(n int) string {
	return fmt.Sprintf("for %s connections, root must raise the limit of open files before: prlimit --pid SHELL --nofile=%d",
		thousands(int64(n)), n+otherFiles)
}
