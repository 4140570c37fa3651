//go:build !plan9

package sendq

import "syscall"

// Errors of sockets that not every system has.
const (
	errAgain  = syscall.EAGAIN
	errBroken = syscall.EPIPE
)
