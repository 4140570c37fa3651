package sock

import (
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pairs make connected sockets of each kind.
var pairs = map[string]func(t *testing.T) (conn, peer net.Conn){
	"TCP": func(t *testing.T) (conn, peer net.Conn) { return connect(t, "tcp", "127.0.0.1:0") },
	"Unix": func(t *testing.T) (conn, peer net.Conn) {
		return connect(t, "unix", filepath.Join(t.TempDir(), "socket"))
	},
}

func connect(t *testing.T, network, address string) (conn, peer net.Conn) {
	listener, err := net.Listen(network, address)
	require.NoError(t, err)
	defer listener.Close()
	conn, err = net.Dial(network, listener.Addr().String())
	require.NoError(t, err)
	peer, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(); peer.Close() })
	return conn, peer
}

// A Sender writes until the kernel accepts no more, and does not wait.
func TestSender(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			conn, peer := pair(t)
			s := NewSender(conn)
			if !s.CanSend() {
				t.Skip("not on this system")
			}
			sent, chunk := 0, make([]byte, 64<<10)
			for sent < 256<<20 {
				n, err := s.Send(conn, chunk)
				require.NoError(t, err)
				if n == 0 {
					break
				}
				sent += n
			}
			require.Less(t, sent, 256<<20)
			for received := 0; received < sent; {
				n, err := peer.Read(chunk)
				require.NoError(t, err)
				received += n
			}
			require.NoError(t, conn.Close())
			_, err := s.Send(conn, chunk)
			require.ErrorIs(t, err, net.ErrClosed)
			var failed *net.OpError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, "write", failed.Op)
		})
	}
}

// A wrapper must see the bytes written, so no Sender bypasses it.
func TestSenderOfAWrapper(t *testing.T) {
	conn, _ := connect(t, "tcp", "127.0.0.1:0")
	require.False(t, NewSender(struct{ net.Conn }{conn}).CanSend())
}

func TestStateOf(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			conn, peer := pair(t)
			before, err := StateOf(conn)
			if errors.Is(err, errors.ErrUnsupported) {
				needKernel(t)
			}
			require.NoError(t, err)
			_, err = conn.Write(make([]byte, 1000))
			require.NoError(t, err)
			var s State
			require.Eventually(t, func() bool {
				s, err = StateOf(wrapper{conn})
				return err == nil && s.Unacknowledged == 0
			}, 10*time.Second, time.Millisecond)
			if name == "TCP" {
				require.EqualValues(t, 1000, s.Acknowledged-before.Acknowledged)
			} else {
				require.Positive(t, s.Unread)
			}
			require.False(t, s.Gone)
			if name == "TCP" {
				require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
				require.NoError(t, peer.Close())
				require.Eventually(t, func() bool {
					s, err = StateOf(conn)
					return err == nil && s.Gone
				}, 10*time.Second, time.Millisecond)
			}
		})
	}
}

// needKernel skips a test if the kernel does not count acknowledged bytes.
func needKernel(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH == "386" || runtime.GOARCH == "s390x" {
		t.Skip("the kernel does not tell")
	}
}

func TestStateOfWhatIsNoSocket(t *testing.T) {
	pipe, _ := net.Pipe()
	_, err := StateOf(pipe)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// A wrapper returns its inner connection.
type wrapper struct{ net.Conn }

func (w wrapper) NetConn() net.Conn { return w.Conn }

// A loop is a wrapper that leads back to itself.
type loop struct{ net.Conn }

func (l *loop) NetConn() net.Conn { return l }

// A panics is a wrapper that panics.
type panics struct{ net.Conn }

func (panics) NetConn() net.Conn { panic("on purpose") }

func TestLayers(t *testing.T) {
	conn, _ := net.Pipe()
	all, err := layers(wrapper{wrapper{conn}})
	require.NoError(t, err)
	require.Equal(t, []net.Conn{wrapper{wrapper{conn}}, wrapper{conn}, conn}, all)

	all, err = layers(&loop{conn})
	require.NoError(t, err)
	require.Len(t, all, 1)

	all, err = layers(wrapper{(*net.TCPConn)(nil)})
	require.NoError(t, err)
	require.Len(t, all, 1)

	_, err = layers(panics{conn})
	var panicked *PanicError
	require.ErrorAs(t, err, &panicked)
	require.Equal(t, "NetConn", panicked.Method)
	require.Equal(t, "on purpose", panicked.Value)
}

func TestIsDatagram(t *testing.T) {
	for network, want := range map[string]bool{
		"tcp": false, "unix": false, "pipe": false, "": false,
		"udp": true, "udp6": true, "ip4:icmp": true, "unixgram": true, "unixpacket": true,
		Messages: true, Stream: false,
	} {
		require.Equal(t, want, IsDatagram(network), network)
	}
}

func TestLosesNothing(t *testing.T) {
	for network, want := range map[string]bool{
		"tcp": false, "unix": false, "": false, "pipe": true, "udp": true, Messages: true, Stream: true,
	} {
		require.Equal(t, want, LosesNothing(network), network)
	}
}
