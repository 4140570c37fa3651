//go:build !unix

package sendq_test

import (
	"net"
	"testing"
)

// socketPair returns two connected sockets, of another kind where there is no socketpair.
func socketPair(t testing.TB) (conn, peer net.Conn) { return tcpPair(t) }
