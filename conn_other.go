//go:build !linux || 386 || s390x

package sendq

import "errors"

// sendStateOf knows on Linux only.
func sendStateOf(uintptr) (sendState, error) { return sendState{}, errors.ErrUnsupported }

func maxSeenWriteOf(uintptr) int { return maxUnseenWrite }

// discardUnreadOf is needed only where sendStateOf knows.
func discardUnreadOf(uintptr) error { return nil }

// lastErrorOf is needed only there, too.
func lastErrorOf(uintptr) error { return nil }
