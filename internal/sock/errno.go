//go:build !plan9

package sock

import "syscall"

// Errors of sockets. On some systems package syscall lacks them.
const (
	ErrAgain  = syscall.EAGAIN
	ErrBroken = syscall.EPIPE
)
