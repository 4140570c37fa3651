package sock

import "errors"

// Plan 9 has strings for errors, so nothing else returns these two.
var (
	ErrAgain  = errors.New("resource temporarily unavailable")
	ErrBroken = errors.New("broken pipe")
)
