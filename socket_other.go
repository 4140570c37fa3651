//go:build !unix || aix

package sendq

import (
	"errors"
	"net"
	"syscall"
)

// Here nothing is written without waiting.
func rawSocket(net.Conn) syscall.RawConn { return nil }

func (w *Writer) tryWrite([]byte) (int, error) { return 0, errors.ErrUnsupported }
