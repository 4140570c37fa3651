//go:build !unix

package sendq_test

import (
	"net"
	"testing"
)

// socketPair returns two connected sockets. Without socketpair they are TCP.
func socketPair(t testing.TB) (conn, peer net.Conn) { return tcpPair(t) }
