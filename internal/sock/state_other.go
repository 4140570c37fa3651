//go:build !linux || 386 || s390x

package sock

import "errors"

// stateOf works only on Linux.
func stateOf(uintptr) (State, error) { return State{}, errors.ErrUnsupported }

func progressWriteOf(_ uintptr, _, fallback int) int { return fallback }

// discardUnreadOf is needed only where stateOf works.
func discardUnreadOf(uintptr) error { return nil }

// lastErrorOf is needed only where stateOf works.
func lastErrorOf(uintptr) error { return nil }
