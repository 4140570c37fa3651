//go:build !unix || aix

package sock

import (
	"errors"
	"net"
)

// A Sender writes to a socket without waiting, which is not done here.
type Sender struct{}

// NewSender returns a Sender that cannot send.
func NewSender(net.Conn) Sender { return Sender{} }

// CanSend reports whether the Sender can send.
func (Sender) CanSend() bool { return false }

// Send fails.
func (Sender) Send(net.Conn, []byte) (int, error) { return 0, errors.ErrUnsupported }
