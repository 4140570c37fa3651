package sendq

import (
	"errors"
	"fmt"
	"net"
)

// ErrClosed is returned for what comes too late: a message to a Writer that is
// closing or has ended, a name for a Broker that has been shut down. It wraps
// net.ErrClosed.
var ErrClosed = fmt.Errorf("sendq: closed: %w", net.ErrClosed)

// ErrNameTaken is returned by Broker.Register when another Writer has the name.
var ErrNameTaken = errors.New("sendq: name is taken")

// ErrUnknownName is returned when no Writer has the name.
var ErrUnknownName = errors.New("sendq: unknown name")

// endedError refuses a message to a Writer that has failed.
type endedError struct{ cause error }

func (e *endedError) Error() string { return "sendq: Writer has ended: " + e.cause.Error() }

func (e *endedError) Unwrap() []error { return []error{ErrClosed, e.cause} }
