package sendq

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/sendq-go/sendq/internal/sock"
)

// ErrClosed is returned by operations on a Writer that is closing or has ended, and on a Broker
// that was shut down. errors.Is reports that it is net.ErrClosed too.
var ErrClosed error = closedByUs{}

type closedByUs struct{}

func (closedByUs) Error() string { return "sendq: closed" }

func (closedByUs) Is(target error) bool { return target == net.ErrClosed }

// ErrSlowConsumer is why a Writer ended that reached a limit: MaxPending with Disconnect,
// MaxAge, WriteTimeout, or a Budget.
var ErrSlowConsumer = errors.New("sendq: slow consumer")

// ErrDropped is returned for a message that was dropped at once because of MaxPending. It counts
// as accepted and dropped.
var ErrDropped = errors.New("sendq: message dropped")

// ErrWouldBlock is returned for a message of a Broker to a Writer that is at MaxPending with
// Block, because a Broker does not wait for room. The message was not accepted.
var ErrWouldBlock = errors.New("sendq: would block")

// ErrTooLarge is returned for a message that is larger than MaxPending or the Budget. The message
// was not accepted, and the Writer lives on.
var ErrTooLarge = errors.New("sendq: message too large")

// ErrTakenOver is why a Writer ended whose name another Writer took over.
var ErrTakenOver = errors.New("sendq: name taken over by another Writer")

// ErrNameTaken is returned by Broker.Register if another Writer has the name.
var ErrNameTaken = errors.New("sendq: name taken")

// ErrUnknownName is returned if no Writer has the name.
var ErrUnknownName = errors.New("sendq: unknown name")

// ErrUnconfirmed is returned for a message to a name on another node if no reply came in time. The
// message may have been accepted.
var ErrUnconfirmed = errors.New("sendq: not confirmed by the other node")

// ErrNameLost is why a Writer ended whose name another node has. That happens when nodes that
// could not reach each other reach each other again.
var ErrNameLost = errors.New("sendq: name lost to another node")

// A failure says what failed, and why. It names the package once.
type failure struct {
	what  string
	cause error
}

// failed returns an error that wraps cause, and says what failed because of it.
func failed(cause error, format string, args ...any) error {
	return &failure{fmt.Sprintf(format, args...), cause}
}

func (f *failure) Error() string {
	return "sendq: " + f.what + ": " + strings.TrimPrefix(f.cause.Error(), "sendq: ")
}

func (f *failure) Unwrap() error { return f.cause }

// endedError refuses a message to a Writer that has failed.
type endedError struct{ cause error }

func (e *endedError) Error() string { return failed(e.cause, "Writer has ended").Error() }

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

// A ShutdownError says what a Broker could not deliver when it was shut down or closed.
type ShutdownError struct {
	// Undelivered has one element for each name whose Writer did not deliver everything.
	Undelivered []*UndeliveredError

	// Relay is the error of closing BrokerOptions.Relay, or nil.
	Relay error
}

func (e *ShutdownError) Error() string {
	lines := make([]string, 0, len(e.Undelivered)+1)
	for _, err := range e.Unwrap() {
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns all errors.
func (e *ShutdownError) Unwrap() []error {
	var errs []error
	for _, u := range e.Undelivered {
		errs = append(errs, u)
	}
	if e.Relay != nil {
		errs = append(errs, e.Relay)
	}
	return errs
}

// An UndeliveredError says what the Writer of a name did not deliver.
type UndeliveredError struct {
	Name     string
	Messages int64 // accepted, but not written
	Bytes    int64 // of these messages
	Err      error // the error of Writer.Shutdown
}

func (e *UndeliveredError) Error() string { return failed(e.Err, "%q", e.Name).Error() }

func (e *UndeliveredError) Unwrap() error { return e.Err }

// A PanicError is why a Writer ended if a method of its connection panicked or called
// runtime.Goexit.
type PanicError struct {
	Method string // of the connection, such as "Write"
	Value  any    // the argument of panic
	Stack  []byte // the stack of the panic, as debug.Stack formats it
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
