// Package netlab provides tests with a network of two hosts, or of more around a hub, and controls
// its faults. Every packet between the hosts passes through the test process.
//
// It needs Linux, root privileges, /dev/net/tun and the ip command. Each host is a
// network namespace created by the test, so no other process sees its packets.
package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sendq-go/sendq/internal/missing"
)

// A Network connects two hosts for the duration of a test. Its paths are perfect until
// Set or Cut.
type Network struct {
	A, B  *Host
	Paths []*Path
}

// A Path joins an address of A to one of B.
type Path struct {
	AtoB, BtoA *Link
}

// Set sets the conditions of both directions.
func (p *Path) Set(c Conditions) {
	p.AtoB.Set(c)
	p.BtoA.Set(c)
}

// Cut cuts both directions: see Link.Cut.
func (p *Path) Cut() {
	p.AtoB.Cut()
	p.BtoA.Cut()
}

// New creates a network with a number of paths. If the machine does not allow it, New calls
// missing.Skip, or skips the test where it is not run by root.
func New(t testing.TB, paths int) *Network {
	t.Helper()
	n := &Network{A: newHost(1), B: newHost(2)}
	var forwarding sync.WaitGroup
	t.Cleanup(func() {
		n.A.close()
		n.B.close()
		forwarding.Wait()
	})
	fail := func(err error) {
		if err != nil {
			t.Helper()
			unavailable(t, err)
		}
	}
	for i := range paths {
		a, err := n.A.attach(i)
		fail(err)
		b, err := n.B.attach(i)
		fail(err)
		p := &Path{newLink(b, uint64(2*i)), newLink(a, uint64(2*i+1))}
		n.Paths = append(n.Paths, p)
		forwarding.Go(func() { forward(a, []*Link{p.AtoB}, func([]byte) *Link { return p.AtoB }) })
		forwarding.Go(func() { forward(b, []*Link{p.BtoA}, func([]byte) *Link { return p.BtoA }) })
	}
	fail(n.A.configure(paths))
	fail(n.B.configure(paths))
	return n
}

func unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: %v", err) // ci/netlab has it
	}
	missing.Skip(t, "what netlab needs: ", err)
}

// TCP connects the hosts over the first path.
func (n *Network) TCP(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	return n.connect(t, false)
}

// MPTCP connects the hosts over all paths. The first path carries the first subflow. If
// the kernel does not support that, MPTCP skips or fails the test as New does.
func (n *Network) MPTCP(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	a, b = n.connect(t, true)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		subflows, err := subflows(b)
		if err == nil && subflows != len(n.Paths) && time.Now().After(deadline) {
			err = fmt.Errorf("the kernel made %d subflows for %d paths", subflows, len(n.Paths))
		}
		if err != nil {
			unavailable(t, err)
		}
		if subflows == len(n.Paths) {
			return a, b
		}
	}
}

func (n *Network) connect(t testing.TB, multipath bool) (a, b *net.TCPConn) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(multipath)
	dialer := net.Dialer{Timeout: time.Minute}
	dialer.SetMultipathTCP(multipath)

	var l net.Listener
	var err error
	n.B.Do(func() { l, err = lc.Listen(t.Context(), "tcp4", ":0") }) // on all addresses, because the other subflows need them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	address := netip.AddrPortFrom(n.B.Addr(0), l.Addr().(*net.TCPAddr).AddrPort().Port())
	var conn net.Conn
	n.A.Do(func() { conn, err = dialer.DialContext(t.Context(), "tcp", address.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	return conn.(*net.TCPConn), peer.(*net.TCPConn)
}

// subflows returns the number of TCP connections in an MPTCP connection.
func subflows(conn syscall.Conn) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) { n, err = mptcpSubflows(fd) })
	if controlErr != nil {
		return 0, controlErr
	}
	return n, err
}
