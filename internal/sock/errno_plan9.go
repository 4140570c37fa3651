package sock

import "errors"

// On Plan 9 the kernel's errors are strings, and these two come from nobody else.
var (
	ErrAgain  = errors.New("resource temporarily unavailable")
	ErrBroken = errors.New("broken pipe")
)
