package netlab_test

import (
	"bytes"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/netlab"
)

// datagrams returns UDP sockets on A and B, connected over the first path.
func datagrams(t *testing.T, n *netlab.Network) (a, b net.Conn) {
	var err error
	dial := func(from, to *netlab.Host) (conn net.Conn) {
		from.Do(func() {
			local := net.UDPAddr{IP: from.Addr(0).AsSlice(), Port: 1000}
			conn, err = net.DialUDP("udp", &local, &net.UDPAddr{IP: to.Addr(0).AsSlice(), Port: 1000})
		})
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	return dial(n.A, n.B), dial(n.B, n.A)
}

func send(t *testing.T, conn net.Conn, number int) {
	_, err := conn.Write([]byte{byte(number)})
	require.NoError(t, err)
}

func receive(t *testing.T, conn net.Conn) (number int) {
	var p [1]byte
	_, err := conn.Read(p[:])
	require.NoError(t, err)
	return int(p[0])
}

func TestPerfectPath(t *testing.T) {
	a, b := netlab.New(t, 1).TCP(t)
	p := bytes.Repeat([]byte("0123456789"), 1<<17)
	go func() {
		a.Write(p)
		a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got))
}

func TestDelay(t *testing.T) {
	const delay = 50 * time.Millisecond
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	n.Paths[0].Set(netlab.Conditions{Delay: delay})
	began := time.Now()
	send(t, a, 1)
	receive(t, b)
	require.GreaterOrEqual(t, time.Since(began), delay)
	send(t, b, 2)
	receive(t, a)
	require.GreaterOrEqual(t, time.Since(began), 2*delay)
}

func TestJitterReorders(t *testing.T) {
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	n.Paths[0].Set(netlab.Conditions{Jitter: 100 * time.Millisecond})
	var numbers []int
	for i := range 100 {
		send(t, a, i)
	}
	for range 100 {
		numbers = append(numbers, receive(t, b))
	}
	require.False(t, slices.IsSorted(numbers), "%v", numbers)
	slices.Sort(numbers)
	require.Len(t, slices.Compact(numbers), 100, "no packet is lost")
}

func TestDelayKeepsOrder(t *testing.T) {
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	n.Paths[0].Set(netlab.Conditions{Delay: 10 * time.Millisecond})
	for i := range 100 {
		send(t, a, i)
	}
	for i := range 100 {
		require.Equal(t, i, receive(t, b))
	}
}

func TestLoss(t *testing.T) {
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	link := n.Paths[0].AtoB
	link.Set(netlab.Conditions{Loss: 0.3})
	const sent = 100
	for i := range sent {
		send(t, a, i)
	}
	var received atomic.Int64
	go func() {
		for p := make([]byte, 1); ; received.Add(1) {
			if _, err := b.Read(p); err != nil {
				return
			}
		}
	}()
	require.Eventually(t, func() bool { return int(received.Load())+link.Lost() == sent }, time.Minute, time.Millisecond)
	require.InDelta(t, 0.3*sent, link.Lost(), 20)
}

func TestCut(t *testing.T) {
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	link := n.Paths[0].AtoB
	link.Cut()
	send(t, a, 1)
	requireLost(t, link, 1)
	send(t, b, 2)
	require.Equal(t, 2, receive(t, a), "the other direction is unchanged")
	link.Set(netlab.Conditions{})
	send(t, a, 3)
	require.Equal(t, 3, receive(t, b))

	n.Paths[0].Cut()
	send(t, a, 4)
	requireLost(t, link, 2)
	send(t, b, 5)
	requireLost(t, n.Paths[0].BtoA, 1)
}

func TestCutLosesPacketsInTransit(t *testing.T) {
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	link := n.Paths[0].AtoB
	link.Set(netlab.Conditions{Delay: time.Hour})
	send(t, a, 1)
	require.Eventually(t, func() bool {
		link.Cut()
		defer link.Set(netlab.Conditions{Delay: time.Hour})
		return link.Lost() == 1
	}, time.Minute, time.Millisecond)
	link.Cut()
	require.Equal(t, 1, link.Lost(), "a packet is lost only once")
	link.Set(netlab.Conditions{})
	send(t, a, 2)
	require.Equal(t, 2, receive(t, b))
}

func requireLost(t *testing.T, link *netlab.Link, packets int) {
	t.Helper()
	require.Eventually(t, func() bool { return link.Lost() == packets }, time.Minute, time.Millisecond)
}

func TestRate(t *testing.T) {
	const rate, size, sent = 10_000, 1000, 5
	n := netlab.New(t, 1)
	a, b := datagrams(t, n)
	n.Paths[0].Set(netlab.Conditions{Rate: rate})
	began := time.Now()
	for i := range sent {
		_, err := a.Write(append([]byte{byte(i)}, make([]byte, size-1)...))
		require.NoError(t, err)
	}
	for i := range sent {
		require.Equal(t, i, receive(t, b))
	}
	require.GreaterOrEqual(t, time.Since(began), time.Second*size*sent/rate)
}

func TestRateLimitsQueue(t *testing.T) {
	n := netlab.New(t, 1)
	a, _ := datagrams(t, n)
	link := n.Paths[0].AtoB
	link.Set(netlab.Conditions{Rate: 1, Queue: 200})
	for i := range 100 {
		send(t, a, i)
	}
	// A packet has 29 bytes. One is being sent, and six more fit in the queue: packets are lost
	// once 203 bytes wait.
	requireLost(t, link, 100-7)
}

// A connection survives on its second path.
func TestMPTCP(t *testing.T) {
	n := netlab.New(t, 2)
	a, b := n.MPTCP(t)
	n.Paths[0].Cut()
	require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Minute)))
	go a.Write(make([]byte, 1<<20))
	_, err := io.ReadFull(b, make([]byte, 1<<20))
	require.NoError(t, err)
	require.NotZero(t, n.Paths[0].AtoB.Lost())
}

// TestHub cuts one of three hosts off from one of the others.
func TestHub(t *testing.T) {
	h := netlab.NewHub(t, 3)
	sockets := make([]*net.UDPConn, 3)
	for i, host := range h.Hosts {
		var err error
		host.Do(func() { sockets[i], err = net.ListenUDP("udp", &net.UDPAddr{IP: host.Addr(0).AsSlice(), Port: 1000}) })
		require.NoError(t, err)
		t.Cleanup(func() { sockets[i].Close() })
	}
	send := func(from, to, number int) {
		_, err := sockets[from].WriteTo([]byte{byte(number)}, sockets[to].LocalAddr())
		require.NoError(t, err)
	}
	h.Link(0, 1).Cut()
	send(0, 1, 1)
	send(0, 2, 2)
	require.Equal(t, 2, receive(t, sockets[2]))
	send(2, 1, 3)
	require.Equal(t, 3, receive(t, sockets[1]), "number 1 is lost")
	send(1, 0, 4)
	require.Equal(t, 4, receive(t, sockets[0]), "the other direction is not cut")
	require.Equal(t, 1, h.Link(0, 1).Lost())
	h.Each(0, (*netlab.Link).Cut)
	send(2, 0, 5)
	require.Eventually(t, func() bool { return h.Link(2, 0).Lost() == 1 }, 10*time.Second, time.Millisecond)
}
