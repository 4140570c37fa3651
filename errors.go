package sendq

import (
	"errors"
	"fmt"
	"net"

	"github.com/sendq-go/sendq/internal/sock"
)

// ErrClosed is returned for what comes too late: a message to a Writer that is
// closing or has ended, a name for a Broker that has been shut down. It wraps
// net.ErrClosed.
var ErrClosed = fmt.Errorf("sendq: closed: %w", net.ErrClosed)

// ErrSlowConsumer is why a Writer ended when a limit ended it: MaxPending with
// Disconnect, MaxAge, WriteTimeout, or a Budget.
var ErrSlowConsumer = errors.New("sendq: slow consumer")

// ErrDropped is returned for a message that was given up at MaxPending at once. It
// counts as accepted and dropped.
var ErrDropped = errors.New("sendq: message dropped")

// ErrWouldBlock is returned for a message of a Broker to a Writer that is at
// MaxPending with Block: a Broker waits for nobody. The message was not accepted.
var ErrWouldBlock = errors.New("sendq: no room, and a Broker does not wait")

// ErrTooLarge is returned for a message that MaxPending, or a Budget, could never
// hold. It was not accepted; the Writer lives on.
var ErrTooLarge = errors.New("sendq: message too large")

// ErrTakenOver is why a Writer ended when another one took its name over.
var ErrTakenOver = errors.New("sendq: another Writer has taken the name over")

// ErrNameTaken is returned by Broker.Register when another Writer has the name.
var ErrNameTaken = errors.New("sendq: name is taken")

// ErrUnknownName is returned when no Writer has the name.
var ErrUnknownName = errors.New("sendq: unknown name")

// ErrUnconfirmed is returned for a message to a name on another node from which no answer has
// come in time: it may have been accepted, or not.
var ErrUnconfirmed = errors.New("sendq: not confirmed by the other node")

// ErrNameLost is why a Writer ended whose name turned out to be another node's, as it happens
// when nodes that could not reach each other do so again.
var ErrNameLost = errors.New("sendq: name is lost to another node")

// endedError refuses a message to a Writer that has failed.
type endedError struct{ cause error }

func (e *endedError) Error() string { return "sendq: Writer has ended: " + e.cause.Error() }

func (e *endedError) Unwrap() []error { return []error{ErrClosed, e.cause} }

// asClosed returns err, which wraps net.ErrClosed if it says that the connection was closed.
func asClosed(err error) error {
	if err != nil && sock.IsClosed(err) {
		return &closedError{err}
	}
	return err
}

// closedError makes an error that means the same as net.ErrClosed wrap it too.
type closedError struct{ err error }

func (e *closedError) Error() string { return e.err.Error() }

func (e *closedError) Unwrap() []error { return []error{e.err, net.ErrClosed} }

// An UndeliveredError tells whose messages a Broker could not deliver when it was shut down.
type UndeliveredError struct {
	Name            string
	Messages, Bytes int64 // accepted and not written
	Err             error // why, as Writer.Shutdown has it
}

func (e *UndeliveredError) Error() string { return e.Name + ": " + e.Err.Error() }

func (e *UndeliveredError) Unwrap() error { return e.Err }

// A PanicError is why a Writer ended when a method of its connection panicked, or called
// runtime.Goexit.
type PanicError struct {
	Method string // of the connection, such as "Write"
	Value  any    // what it panicked with
	Stack  []byte // where, as debug.Stack tells
}

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("sendq: conn.%s panicked: %v", e.Method, e.Value)
}

// asPanicError returns err, or the PanicError that it stands for.
func asPanicError(err error) error {
	if panicked, ok := errors.AsType[*sock.PanicError](err); ok {
		return (*PanicError)(panicked)
	}
	return err
}
