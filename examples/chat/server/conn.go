package server

import (
	"errors"
	"net"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
)

// A Conn is a connection that takes part in its session, such as one that speaks another protocol
// below the lines. Other connections are fine as well.
type Conn interface {
	net.Conn

	// Begin is called once, before anything is read or written. From now on, only w writes
	// to the connection. An error refuses the session, and is shown to the client.
	Begin(w *sendq.Writer) error

	// End is called before the last delivery, with ErrStopped, the user's fault, or nil. When
	// the server stops, the last delivery may have begun before.
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
