//go:build !plan9

package sock

import "syscall"

// Errors of sockets, which package syscall does not have for every system.
const (
	ErrAgain  = syscall.EAGAIN
	ErrBroken = syscall.EPIPE
)
