//go:build !linux

package sendq

import (
	"errors"
	"net"
)

// unacknowledgedBytes is known on Linux only.
func unacknowledgedBytes(net.Conn) (int, error) { return 0, errors.ErrUnsupported }

// discardUnread is needed only where unacknowledgedBytes is known.
func discardUnread(net.Conn) {}
