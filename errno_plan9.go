package sendq

import "errors"

// On Plan 9 the kernel's errors are strings, and these two come from nobody else.
var (
	errAgain  = errors.New("resource temporarily unavailable")
	errBroken = errors.New("broken pipe")
)
