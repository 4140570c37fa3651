//go:build unix

package sendq_test

import (
	"os"
	"syscall"
)

// stop stops a process, or continues it.
func stop(p *os.Process, stopped bool) error {
	if stopped {
		return p.Signal(syscall.SIGSTOP)
	}
	return p.Signal(syscall.SIGCONT)
}
