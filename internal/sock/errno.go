//go:build !plan9

package sock

import "syscall"

// Errors of sockets that package syscall lacks on some systems.
const (
	ErrAgain  = syscall.EAGAIN
	ErrBroken = syscall.EPIPE
)
