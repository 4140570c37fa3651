package sendq_test

import "syscall"

// goneErrors are errors of a write to a peer that is gone. Windows has its own numbers for them, and
// package syscall has invented others for ECONNRESET and EPIPE.
var goneErrors = []error{syscall.WSAECONNRESET, syscall.WSAECONNABORTED}
