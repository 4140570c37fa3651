package server

import (
	"errors"
	"net"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
)

// A Conn is a connection with a part in its session, because it speaks another protocol below the
// lines. Other connections are fine as well.
type Conn interface {
	net.Conn

	// Begin is called once, before anything is read or written. From now on, only w writes
	// to the connection. An error refuses the session, and is shown to the client.
	Begin(w *sendq.Writer) error

	// End is called before the queued lines are delivered, with ErrStopped, the user's fault, or
	// nil. If the server stops, the delivery may have begun earlier.
	End(cause error)
}

// ErrStopped is the cause of the end when the server stops.
var ErrStopped = errors.New("the server is shutting down")

func end(conn net.Conn, cause error) {
	c, ok := conn.(Conn)
	switch {
	case !ok:
	case core.IsFault(cause):
		c.End(cause)
	default:
		c.End(nil)
	}
}
