//go:build !linux || 386 || s390x

package sendq_test

import "errors"

func setOption(uintptr, int, int, int) error { return errors.ErrUnsupported }

func outQueueOf(uintptr) int { return 0 }
