package sendq

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/sendq-go/sendq/internal/sock"
)

// ErrClosed is returned by operations on a closing or ended Writer, and by Register once the
// Broker is being shut down. errors.Is(ErrClosed, net.ErrClosed) holds.
var ErrClosed error = closedByUs{}

type closedByUs struct{}

func (closedByUs) Error() string { return "sendq: closed" }

func (closedByUs) Is(target error) bool { return target == net.ErrClosed }

// ErrSlowConsumer indicates that a limit ended the Writer: MaxPending or MaxMessages with
// Disconnect or for a message of WriteAlways, MaxAge, WriteTimeout, or a Budget.
var ErrSlowConsumer = errors.New("sendq: slow consumer")

// ErrDropped is returned for a message if MaxPending or MaxMessages leaves no room and the overflow
// policy drops it at once. The message counts as accepted and dropped. WriteNotify also reports it
// for a message dropped later.
var ErrDropped = errors.New("sendq: message dropped")

// ErrWouldBlock is returned for a message from a Broker or WriteAll to a Writer without room, if its
// overflow policy is Block, and for an urgent message if too many are pending. None of them waits for
// room. The message was not accepted.
var ErrWouldBlock = errors.New("sendq: would block")

// ErrTooLarge is returned for a message larger than MaxPending or the Budget, and for an urgent
// message of more than 4,032 bytes. The message was not accepted, and the Writer lives on.
var ErrTooLarge = errors.New("sendq: message too large")

// ErrTakenOver indicates that the Writer ended because another Writer took its name over.
var ErrTakenOver = errors.New("sendq: name taken over by another Writer")

// ErrNameTaken is returned by Broker.Register if another Writer has the name.
var ErrNameTaken = errors.New("sendq: name taken")

// ErrUnknownName is returned if no Writer has the name.
var ErrUnknownName = errors.New("sendq: unknown name")

// ErrUnconfirmed is returned for a message to a name on another node if no reply came in time. The
// message may have been accepted.
var ErrUnconfirmed = errors.New("sendq: not confirmed by the other node")

// ErrNameLost indicates that the Writer ended because another node has its name. It happens after
// a partition, when the nodes reach each other again.
var ErrNameLost = errors.New("sendq: name lost to another node")

// ErrWrongCount is returned by Acknowledge and Resume if the peer cannot have received that many
// messages, because fewer were written, or if it says that it has received fewer than before.
var ErrWrongCount = errors.New("sendq: wrong count of received messages")

// A failure is an error with a cause. Its text names the package once.
type failure struct {
	what  string
	cause error
}

// failed returns an error with the formatted text. It wraps cause.
func failed(cause error, format string, args ...any) error {
	return &failure{fmt.Sprintf(format, args...), cause}
}

func (f *failure) Error() string {
	return "sendq: " + f.what + ": " + strings.TrimPrefix(f.cause.Error(), "sendq: ")
}

func (f *failure) Unwrap() error { return f.cause }

// endedError is returned for a message to a Writer with an error.
type endedError struct{ cause error }

func (e *endedError) Error() string { return failed(e.cause, "Writer has ended").Error() }

func (e *endedError) Unwrap() []error { return []error{ErrClosed, e.cause} }

// asClosed makes err wrap net.ErrClosed if the connection was closed.
func asClosed(err error) error {
	if err != nil && sock.IsClosed(err) {
		return &closedError{err}
	}
	return err
}

// closedError wraps net.ErrClosed beside another error with the same meaning.
type closedError struct{ err error }

func (e *closedError) Error() string { return e.err.Error() }

func (e *closedError) Unwrap() []error { return []error{e.err, net.ErrClosed} }

// A ShutdownError is returned by Shutdown, Drain, Close and CloseNow of a Broker if something was
// not delivered. Range over Undelivered to see it by name.
type ShutdownError struct {
	// Undelivered has an element for each Writer whose Shutdown, Close or CloseNow failed, in no
	// order. A Writer with several names has one for each.
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

// An UndeliveredError is the part of a ShutdownError about one Writer.
type UndeliveredError struct {
	Name     string
	Messages int64 // accepted, but not written; 0 if something failed after that
	Bytes    int64 // of these messages
	Err      error // of Writer.Shutdown, Close or CloseNow
}

func (e *UndeliveredError) Error() string { return failed(e.Err, "%q", e.Name).Error() }

func (e *UndeliveredError) Unwrap() error { return e.Err }

// LogValue returns the fields as a group of attributes, for log/slog: name, messages, bytes and
// error.
func (e *UndeliveredError) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", e.Name), slog.Int64("messages", e.Messages),
		slog.Int64("bytes", e.Bytes), slog.Any("error", e.Err))
}

// A PanicError indicates that the Writer ended because a method of its connection panicked or
// called runtime.Goexit.
type PanicError struct {
	Method string // of the connection, such as "Write"
	Value  any    // the argument of panic, or an error if runtime.Goexit was called
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

// asPanicError converts a panic found by internal/sock to a PanicError.
func asPanicError(err error) error {
	if panicked, ok := errors.AsType[*sock.PanicError](err); ok {
		return (*PanicError)(panicked)
	}
	return err
}
