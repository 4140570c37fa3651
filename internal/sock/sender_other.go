//go:build !unix || aix

package sock

import (
	"errors"
	"net"
)

// A Sender writes to a socket without waiting. On this system no Sender can.
type Sender struct{}

// NewSender returns a Sender that cannot send.
func NewSender(net.Conn) Sender { return Sender{} }

// CanSend returns false.
func (Sender) CanSend() bool { return false }

// Send returns errors.ErrUnsupported.
func (Sender) Send(net.Conn, []byte) (int, error) { return 0, errors.ErrUnsupported }
