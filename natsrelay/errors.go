package natsrelay

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNodeLost indicates that a node was unreachable for a Lease: it died, or one of the two nodes
// cannot reach the other. The names of the node leave with ErrNodeLost as the cause, and pending
// requests to the node fail with it.
var ErrNodeLost = errors.New("natsrelay: node unreachable")

// ErrNodeBehind is returned for a message to a name on another node if Options.MaxQueuedBytes
// already wait for that node. The message was not sent.
var ErrNodeBehind = errors.New("natsrelay: node too far behind, send again later")

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
	return "natsrelay: " + f.what + ": " + strings.ReplaceAll(f.cause.Error(), "natsrelay: ", "")
}

func (f *failure) Unwrap() error { return f.cause }
