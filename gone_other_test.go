//go:build !windows

package sendq_test

import "syscall"

// goneErrors are errors of a write to a peer that is gone. macOS returns EPROTOTYPE for a moment,
// while the connection is being torn down.
var goneErrors = []error{syscall.ECONNRESET, syscall.EPIPE, syscall.EPROTOTYPE}
