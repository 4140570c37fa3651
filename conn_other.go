//go:build !linux || 386 || s390x

package sendq

import (
	"errors"
	"net"
)

// getSendState is known on Linux only.
func getSendState(net.Conn) (sendState, error) { return sendState{}, errors.ErrUnsupported }

// peerProgress is known on Linux only.
func peerProgress(net.Conn) (taken uint64, known bool) { return 0, false }

// discardUnread is needed only where getSendState is known.
func discardUnread(net.Conn) {}
