//go:build linux && !386 && !s390x

package sendq_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/netlab"
)

// The tests of this file have packet loss, delay, reordering and vanishing peers. The Writer is on
// host B, its peer on A.

// newWriter returns a Writer that ends with the test.
func newWriter(t *testing.T, conn net.Conn, opts *sendq.WriterOptions) *sendq.Writer {
	w := sendq.NewWriter(conn, opts)
	t.Cleanup(func() { w.CloseNow() })
	return w
}

// requireEnd waits for the end of w: much longer than the end takes, and much shorter than the 15
// minutes of the kernel.
func requireEnd(t *testing.T, w *sendq.Writer) {
	t.Helper()
	select {
	case <-w.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the Writer lives on")
	}
}

// requireAll requires want and then EOF from r. It does not print the bytes.
func requireAll(t *testing.T, want []byte, r io.Reader) {
	t.Helper()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "%d bytes of %d", len(got), len(want))
}

// onDescriptor calls f with the descriptor of conn.
func onDescriptor(conn *net.TCPConn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if closed := raw.Control(func(fd uintptr) { err = f(int(fd)) }); closed != nil {
		return closed
	}
	return err
}

// unacknowledged returns the number of unacknowledged bytes, with one for a half-close. It returns
// 0 if conn is closed.
func unacknowledged(t *testing.T, conn *net.TCPConn) int {
	t.Helper()
	var n int32
	err := onDescriptor(conn, func(fd int) error {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
			return errno
		}
		return nil
	})
	if !errors.Is(err, net.ErrClosed) {
		require.NoError(t, err)
	}
	return int(n)
}

func waitUntilAcknowledged(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); unacknowledged(t, conn) > 0; time.Sleep(100 * time.Microsecond) {
		require.True(t, time.Now().Before(deadline), "the peer is there")
	}
}

// States in the first byte of struct tcp_info.
const tcpFinWait1, tcpClosed = 4, 7

func tcpState(t *testing.T, conn *net.TCPConn) (state byte) {
	t.Helper()
	require.NoError(t, onDescriptor(conn, func(fd int) error {
		info, err := syscall.GetsockoptInet4Addr(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
		state = info[0]
		return err
	}))
	return state
}

// lossOf returns the number of lost bytes in the text of err.
func lossOf(t *testing.T, err error) int {
	t.Helper()
	number := regexp.MustCompile(`not acknowledged by the peer: (\d+)`).FindStringSubmatch(err.Error())
	require.NotNil(t, number, "%v", err)
	n, err := strconv.Atoi(number[1])
	require.NoError(t, err)
	return n
}

// onlySecondPath returns an MPTCP connection whose first path and subflow are gone.
func onlySecondPath(t *testing.T, rate int, backlog []byte) (conn, peer *net.TCPConn) {
	n := netlab.New(t, 2)
	var err error
	n.B.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/tcp_retries2", []byte("2"), 0) })
	require.NoError(t, err)
	peer, conn = n.MPTCP(t)
	n.Paths[1].Set(netlab.Conditions{Delay: 5 * time.Millisecond, Rate: rate})
	require.NoError(t, peer.SetReadBuffer(1<<20))
	go conn.Write(backlog) // gets the first path under way
	_, err = io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)
	n.Paths[0].Cut()
	_, err = io.ReadFull(peer, make([]byte, len(backlog)-1))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return tcpState(t, conn) == tcpClosed }, time.Minute, time.Millisecond)
	return conn, peer
}

// TCP_INFO describes the lost first path, not the connection.
func TestNetlabCloseDeliversByTheSecondPath(t *testing.T) {
	t.Parallel()
	conn, peer := onlySecondPath(t, 2<<20, make([]byte, 1<<20))
	w := newWriter(t, conn, &sendq.WriterOptions{CloseTimeout: time.Minute})
	message := letters(3 << 20)
	require.NoError(t, w.Send(message))
	closed := async(w.Close)
	requireAll(t, message, peer)
	require.NoError(t, <-closed)
}

func TestNetlabWriteTimeoutSeesTheSecondPath(t *testing.T) {
	t.Parallel()
	conn, peer := onlySecondPath(t, 160_000, make([]byte, 200_000))
	w := newWriter(t, conn, &sendq.WriterOptions{WriteTimeout: 1500 * time.Millisecond})
	go io.Copy(io.Discard, peer)
	require.NoError(t, w.Send(make([]byte, 16<<20)))
	time.Sleep(6 * time.Second)
	require.NoError(t, w.Err())
}

// A lab is a connection between two hosts of a network.
type lab struct {
	*netlab.Network
	socket     *net.TCPConn // the innermost connection of conn
	conn, peer net.Conn
}

func (l lab) cut() {
	for _, p := range l.Paths {
		p.Cut()
	}
}

var labs = map[string]func(*testing.T) lab{
	"TCP": func(t *testing.T) lab {
		n := netlab.New(t, 1)
		peer, conn := n.TCP(t)
		return lab{n, conn, conn, peer}
	},
	"TLS": func(t *testing.T) lab {
		n := netlab.New(t, 1)
		peer, conn := n.TCP(t)
		server, client := tls.Server(conn, tlsConfig()), tls.Client(peer, tlsConfig())
		handshake := async(server.Handshake)
		require.NoError(t, client.Handshake())
		require.NoError(t, <-handshake)
		return lab{n, conn, server, client}
	},
	"MPTCP": func(t *testing.T) lab {
		n := netlab.New(t, 2)
		peer, conn := n.MPTCP(t)
		return lab{n, conn, conn, peer}
	},
	"MPTCP that has become TCP": func(t *testing.T) lab {
		n := netlab.New(t, 1)
		var l net.Listener
		var conn net.Conn
		var err error
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		n.A.Do(func() { l, err = lc.Listen(t.Context(), "tcp4", ":0") })
		require.NoError(t, err)
		defer l.Close()
		var d net.Dialer
		d.SetMultipathTCP(true)
		address := netip.AddrPortFrom(n.A.Addr(0), l.Addr().(*net.TCPAddr).AddrPort().Port())
		n.B.Do(func() { conn, err = d.DialContext(t.Context(), "tcp", address.String()) })
		require.NoError(t, err)
		closeAtEnd(t, conn)
		peer, err := l.Accept()
		require.NoError(t, err)
		closeAtEnd(t, peer)
		return lab{n, conn.(*net.TCPConn), conn, peer}
	},
}

// If everything is acknowledged, Close has only a goodbye to wait for.
func TestNetlabCloseAcknowledgedThenCut(t *testing.T) {
	t.Parallel()
	for name, connect := range labs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size, bound = 100_000, 30 * time.Second
			l := connect(t)
			w := newWriter(t, l.conn, &sendq.WriterOptions{CloseTimeout: bound})
			require.NoError(t, w.Send(make([]byte, size)))
			_, err := io.ReadFull(l.peer, make([]byte, size))
			require.NoError(t, err)
			waitUntilAcknowledged(t, l.socket)
			l.cut()
			began := time.Now()
			require.NoError(t, w.Close())
			require.Less(t, time.Since(began), bound/2)
		})
	}
}

// If the kernel gives up, Close returns its cause.
func TestNetlabCloseTellsTheKernelsCause(t *testing.T) {
	t.Parallel()
	n := netlab.New(t, 1)
	_, conn := n.TCP(t)
	const tcpUserTimeout, size = 18, 100_000
	require.NoError(t, onDescriptor(conn, func(fd int) error {
		return syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout, 1000)
	}))
	n.Paths[0].Cut()
	require.NoError(t, conn.SetWriteBuffer(2*size))
	w := newWriter(t, conn, &sendq.WriterOptions{CloseTimeout: time.Minute})
	require.NoError(t, w.Send(make([]byte, size)))
	require.NoError(t, w.Flush(t.Context()))
	err := w.Close()
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	require.NotErrorIs(t, err, syscall.ECONNRESET)
	require.Equal(t, size, lossOf(t, err))
}

// Close reports the state at its end, not at its last look.
func TestNetlabCloseCutShortTellsHowItIs(t *testing.T) {
	t.Parallel()
	const size = 300 << 10
	// shutDown returns when Shutdown waits for the peer, with everything in the kernel. The peer
	// reads nothing.
	shutDown := func(t *testing.T) (l lab, w *sendq.Writer, cancel context.CancelCauseFunc, outcome <-chan error) {
		l = labs["TCP"](t)
		require.NoError(t, l.socket.SetWriteBuffer(1<<20))
		require.NoError(t, l.peer.(*net.TCPConn).SetReadBuffer(4<<10))
		w = newWriter(t, l.conn, nil)
		require.NoError(t, w.Send(make([]byte, size)))
		require.NoError(t, w.Flush(t.Context()))
		ctx, cancel := context.WithCancelCause(t.Context())
		outcome = async(func() error { return w.Shutdown(ctx) })
		require.Eventually(t, func() bool { return tcpState(t, l.socket) == tcpFinWait1 }, time.Minute, time.Millisecond)
		time.Sleep(200 * time.Millisecond) // the looks get rarer
		return l, w, cancel, outcome
	}

	t.Run("by its bound when everything is acknowledged", func(t *testing.T) {
		t.Parallel()
		l, _, cancel, outcome := shutDown(t)
		require.Len(t, readAll(l.peer).bytes, size)
		waitUntilAcknowledged(t, l.socket)
		cancel(errBroken)
		require.NoError(t, <-outcome)
	})

	t.Run("by CloseNow when everything is acknowledged", func(t *testing.T) {
		t.Parallel()
		l, w, cancel, outcome := shutDown(t)
		defer cancel(nil)
		require.Len(t, readAll(l.peer).bytes, size)
		waitUntilAcknowledged(t, l.socket)
		require.NoError(t, w.CloseNow())
		require.NoError(t, <-outcome)
	})

	t.Run("by its bound when a part is acknowledged", func(t *testing.T) {
		t.Parallel()
		l, _, cancel, outcome := shutDown(t)
		before := unacknowledged(t, l.socket)
		_, err := io.ReadFull(l.peer, make([]byte, 100<<10))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return unacknowledged(t, l.socket) < before }, time.Minute, time.Millisecond)
		l.cut()
		left := unacknowledged(t, l.socket) - 1 // the half-close
		cancel(errBroken)
		err = <-outcome
		require.ErrorIs(t, err, errBroken)
		require.Equal(t, left, lossOf(t, err))
	})
}

func TestNetlabWriteTimeoutNoticesAVanishedPeer(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	little := make([]byte, 1000)
	for _, tt := range []struct {
		name   string
		lab    string
		vanish func(lab)
		every  time.Duration // how often there is a message; 0 means just one
	}{
		{"a message now and then", "TCP", lab.cut, timeout / 10},
		{"one message", "TCP", lab.cut, 0},
		{"messages are lost", "TCP", func(l lab) { l.Paths[0].BtoA.Cut() }, timeout / 10},
		{"acknowledgements are lost", "TCP", func(l lab) { l.Paths[0].AtoB.Cut() }, timeout / 10},
		{"one message over TLS", "TLS", lab.cut, 0},
		{"one message over MPTCP", "MPTCP", lab.cut, 0},
		{"one message over MPTCP that has become TCP", "MPTCP that has become TCP", lab.cut, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := labs[tt.lab](t)
			w := newWriter(t, l.conn, &sendq.WriterOptions{WriteTimeout: timeout})
			for began := time.Now(); time.Since(began) < 2*timeout; time.Sleep(timeout / 10) {
				require.NoError(t, w.Send(little), "the peer does not read, but its machine is there")
			}
			require.NoError(t, w.Flush(t.Context()))
			waitUntilAcknowledged(t, l.socket)
			tt.vanish(l)
			began := time.Now()
			require.NoError(t, w.Send(little))
			for tt.every > 0 && time.Since(began) < 5*timeout && w.Send(little) == nil {
				time.Sleep(tt.every)
			}
			requireEnd(t, w)
			require.GreaterOrEqual(t, time.Since(began), timeout)
			require.Less(t, time.Since(began), 5*timeout)
			require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
			require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
			assertConserved(t, w.Stats())
		})
	}
}

func TestNetlabWriteTimeoutSpares(t *testing.T) {
	t.Parallel()
	t.Run("an idle peer that is not there", func(t *testing.T) {
		t.Parallel()
		n := netlab.New(t, 1)
		peer, conn := n.TCP(t)
		w := newWriter(t, conn, &sendq.WriterOptions{WriteTimeout: time.Second})
		require.NoError(t, w.Send([]byte("before")))
		waitUntilAcknowledged(t, conn)
		n.Paths[0].Cut()
		time.Sleep(3 * time.Second)
		n.Paths[0].Set(netlab.Conditions{})
		require.NoError(t, w.Send([]byte(", after")))
		closed := async(w.Close)
		require.Equal(t, content{"before, after", nil}, readAll(peer))
		require.NoError(t, <-closed)
	})

	t.Run("a peer that comes back in time", func(t *testing.T) {
		t.Parallel()
		n := netlab.New(t, 1)
		peer, conn := n.TCP(t)
		w := newWriter(t, conn, &sendq.WriterOptions{WriteTimeout: 6 * time.Second})
		message := letters(1 << 20)
		n.Paths[0].Cut()
		require.NoError(t, w.Send(message))
		time.Sleep(2 * time.Second) // the kernel tries again 3 s after the first time
		n.Paths[0].Set(netlab.Conditions{})
		closed := async(w.Close)
		requireAll(t, message, peer)
		require.NoError(t, <-closed)
	})

	t.Run("a closed window that opens in time", func(t *testing.T) {
		t.Parallel()
		n := netlab.New(t, 1)
		peer, conn := n.TCP(t)
		require.NoError(t, peer.SetReadBuffer(32<<10))
		const timeout = 3 * time.Second
		w := newWriter(t, conn, &sendq.WriterOptions{WriteTimeout: timeout})
		require.NoError(t, w.Send(make([]byte, 16<<20)))
		for range 5 {
			time.Sleep(timeout / 2)
			_, err := io.ReadFull(peer, make([]byte, 64<<10))
			require.NoError(t, err)
		}
		require.NoError(t, w.Err())
	})
}

// At 64 kbit/s with delay and loss, the peer is silent for seconds.
func TestNetlabWriteTimeoutSparesASlowLink(t *testing.T) {
	t.Parallel()
	n := netlab.New(t, 1)
	peer, conn := n.TCP(t)
	n.Paths[0].Set(netlab.Conditions{Delay: 250 * time.Millisecond, Loss: 0.05, Rate: 8000, Queue: 16 << 10})
	w := newWriter(t, conn, &sendq.WriterOptions{WriteTimeout: 10 * time.Second})
	require.NoError(t, w.Send(make([]byte, 4<<20)))
	deadline := time.Now().Add(max(15*time.Second, *stress))
	require.NoError(t, peer.SetReadDeadline(deadline))
	read, silence, last := 0, time.Duration(0), time.Now()
	for p := make([]byte, 4096); ; {
		k, err := peer.Read(p)
		if os.IsTimeout(err) {
			break
		}
		require.NoError(t, err, "after %d bytes: %v", read, w.Err())
		read, silence, last = read+k, max(silence, time.Since(last)), time.Now()
	}
	t.Logf("%d bytes, %d packets lost, longest silence %v", read, n.Paths[0].BtoA.Lost(), silence)
	require.NoError(t, w.Err())
	require.NotZero(t, n.Paths[0].BtoA.Lost())
}

func TestNetlabCloseDeliversOverABadLink(t *testing.T) {
	t.Parallel()
	n := netlab.New(t, 1)
	peer, conn := n.TCP(t)
	_, err := peer.Write(make([]byte, 64<<10)) // nobody reads this
	require.NoError(t, err)
	n.Paths[0].Set(netlab.Conditions{Delay: 5 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.03})
	w := newWriter(t, conn, &sendq.WriterOptions{CloseTimeout: time.Minute})
	arrived := async(func() arrival { return receive(peer) })
	messages := 0
	for size := 0; size < 2<<20; messages++ {
		message := frame(1, messages, rand.IntN(50_000))
		size += len(message)
		require.NoError(t, w.Send(message))
	}
	_, err = peer.Write(make([]byte, 64<<10))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	a := <-arrived
	require.NoError(t, a.err)
	require.Equal(t, upTo(messages), a.order[1])
	require.NotZero(t, n.Paths[0].BtoA.Lost())
}

// A takeover of a hanging connection does not hang.
func TestNetlabTakeoverOfAVanishedPeer(t *testing.T) {
	t.Parallel()
	n := netlab.New(t, 1)
	_, oldConn := n.TCP(t)
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	old := newWriter(t, oldConn, nil)
	require.NoError(t, b.Register("name", old))
	n.Paths[0].Cut()
	var p [4]byte
	messages := 0
	for ; old.Stats().PendingBytes < 4<<20; messages++ {
		binary.BigEndian.PutUint32(p[:], uint32(messages))
		require.NoError(t, b.Send("name", bytes.Repeat(p[:], 4096)))
	}

	conn, peer := tcpPair(t)
	next := newWriter(t, conn, nil)
	registered := async(func() error { return b.Register("name", next) })
	select {
	case err := <-registered:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("Register hangs")
	}
	require.ErrorIs(t, old.Err(), sendq.ErrTakenOver)
	require.NoError(t, b.Send("name", []byte("end!")))
	closed := async(next.Close)
	inherited := readAll(peer)
	require.NoError(t, inherited.err)
	require.NoError(t, <-closed)
	require.EqualValues(t, len(inherited.bytes), old.Stats().UndeliveredBytes+4)
	for i := messages - 1; len(inherited.bytes) > 4; i-- { // the newest come last
		rest := len(inherited.bytes) - 4 - 16384
		binary.BigEndian.PutUint32(p[:], uint32(i))
		require.True(t, string(bytes.Repeat(p[:], 4096)) == inherited.bytes[rest:rest+16384], "message %d", i)
		inherited.bytes = inherited.bytes[:rest] + "end!"
	}
}
