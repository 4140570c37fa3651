package sendq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A transport makes connected pairs of one kind. They are closed at the end of the test.
type transport struct {
	name string
	pair func(t testing.TB) (conn, peer net.Conn)
}

// Sockets buffer data in transit; on a pipe a write waits for the reader.
var (
	sockets    = []transport{{"TCP", tcpPair}, {"TLS", tlsPair}, {"Unix", unixPair}, {"Wrapped", wrappedPair}}
	transports = append(sockets[:len(sockets):len(sockets)], transport{"Pipe", pipePair})
)

// over runs test in a subtest for each transport.
func over(t *testing.T, transports []transport, test func(t *testing.T, conn, peer net.Conn)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			conn, peer := tr.pair(t)
			test(t, conn, peer)
		})
	}
}

func tcpPair(t testing.TB) (conn, peer net.Conn) { return connect(t, "tcp", "127.0.0.1:0") }

func unixPair(t testing.TB) (conn, peer net.Conn) { return connect(t, "unix", socketPath(t)) }

func pipePair(t testing.TB) (conn, peer net.Conn) {
	conn, peer = net.Pipe()
	closeAtEnd(t, conn, peer)
	return conn, peer
}

// tlsPair returns a pair after the handshake. conn is the server.
func tlsPair(t testing.TB) (conn, peer net.Conn) {
	inner, innerPeer := tcpPair(t)
	server, client := tls.Server(inner, tlsConfig()), tls.Client(innerPeer, tlsConfig())
	handshake := async(server.Handshake)
	require.NoError(t, client.Handshake())
	require.NoError(t, <-handshake)
	return server, client
}

func wrappedPair(t testing.TB) (conn, peer net.Conn) {
	conn, peer = tcpPair(t)
	return wrappedConn{conn}, peer
}

// A wrappedConn is a typical wrapper, as for counting or logging: it has only the methods of
// net.Conn, and NetConn.
type wrappedConn struct{ net.Conn }

func (c wrappedConn) NetConn() net.Conn { return c.Conn }

// connect returns both ends of a connection through a listener at address.
func connect(t testing.TB, network, address string) (conn, peer net.Conn) {
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	dialled := async(func() error {
		var err error
		peer, err = net.Dial(network, l.Addr().String())
		return err
	})
	conn, err = l.Accept()
	require.NoError(t, err)
	require.NoError(t, <-dialled)
	closeAtEnd(t, conn, peer)
	return conn, peer
}

// socketPath returns a path for a Unix socket. The directory of t may be too long for one.
func socketPath(t testing.TB) string {
	dir, err := os.MkdirTemp("", "sendq")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "socket")
}

func closeAtEnd(t testing.TB, conns ...net.Conn) {
	t.Cleanup(func() {
		for _, conn := range conns {
			conn.Close()
		}
	})
}

// innermost unwraps conn.
func innermost(conn net.Conn) net.Conn {
	for {
		w, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = w.NetConn()
	}
}

// reset ends conn as a crashed peer does: without a goodbye, and over TCP with a RST.
func reset(t testing.TB, conn net.Conn) {
	conn = innermost(conn)
	if c, ok := conn.(*net.TCPConn); ok {
		require.NoError(t, c.SetLinger(0))
	}
	require.NoError(t, conn.Close())
}

// tlsConfig returns a configuration for both sides, with a certificate for 127.0.0.1 that it
// trusts.
var tlsConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1<<32, 0), // a bubble has its own clock
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      roots,
		ServerName:   "127.0.0.1",
	}
})

// bounded returns transports whose kernel buffers hold less than 4 MiB in transit, on any machine.
func bounded(transports []transport) (b []transport) {
	for _, tr := range transports {
		b = append(b, transport{tr.name, func(t testing.TB) (conn, peer net.Conn) {
			conn, peer = tr.pair(t)
			for _, end := range []net.Conn{conn, peer} {
				if c, ok := innermost(end).(interface {
					SetReadBuffer(bytes int) error
					SetWriteBuffer(bytes int) error
				}); ok {
					require.NoError(t, c.SetReadBuffer(128<<10))
					require.NoError(t, c.SetWriteBuffer(128<<10))
				}
			}
			return conn, peer
		}})
	}
	return b
}

// needAcknowledgements skips a test on systems whose kernel is not asked for acknowledged bytes.
func needAcknowledgements(t testing.TB) {
	if runtime.GOOS != "linux" || runtime.GOARCH == "386" || runtime.GOARCH == "s390x" {
		t.Skip("the kernel is not asked what the peer has acknowledged")
	}
}

// needSocketWrites skips a test on systems where a sender itself never writes.
func needSocketWrites(t testing.TB) {
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" || runtime.GOOS == "aix" {
		t.Skip("only the flusher writes here")
	}
}

// narrow makes pairs whose sender's kernel takes a lot, and the peer's very little.
func narrow(pair func(testing.TB) (conn, peer net.Conn)) func(testing.TB) (conn, peer net.Conn) {
	return func(t testing.TB) (conn, peer net.Conn) {
		conn, peer = pair(t)
		require.NoError(t, innermost(conn).(*net.TCPConn).SetWriteBuffer(1<<20))
		require.NoError(t, innermost(peer).(*net.TCPConn).SetReadBuffer(4<<10))
		return conn, peer
	}
}

// makeBlocking puts conn into blocking mode, as File.Fd does when a program passes its descriptor
// on.
func makeBlocking(t testing.TB, conn net.Conn) {
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" {
		t.Skip("sockets have no blocking mode here")
	}
	file, err := innermost(conn).(interface{ File() (*os.File, error) }).File()
	require.NoError(t, err)
	file.Fd()
	require.NoError(t, file.Close())
}

func outQueue(t testing.TB, conn net.Conn) (n int) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	_ = raw.Control(func(fd uintptr) { n = outQueueOf(fd) }) // fails when it is closed
	return n
}

// readingPeer returns a connection that takes everything at once.
func readingPeer() *sendqtest.Conn { return sendqtest.NewConn() }

// stalledPeer returns a connection whose writes are stuck until Release or Close.
func stalledPeer() *sendqtest.Conn {
	conn := sendqtest.NewConn()
	conn.Stall()
	return conn
}

// A sink takes everything once it is open. It keeps nothing, so a test can measure the memory of a
// Writer.
type sink struct {
	net.Conn
	open chan struct{}
}

func (s *sink) Write(p []byte) (int, error) { <-s.open; return len(p), nil }
func (s *sink) LocalAddr() net.Addr         { return pipeAddr{} }
func (s *sink) Close() error                { return nil }

// discarded returns a connection that takes everything and keeps nothing.
func discarded() *sink {
	s := &sink{open: make(chan struct{})}
	close(s.open)
	return s
}

// A pipeAddr is the address of a net.Pipe: Close does not wait for a peer.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// overPipe returns a Writer and its peer. The Writer ends with the test.
func overPipe(t *testing.T, opts *sendq.WriterOptions) (*sendq.Writer, net.Conn) {
	t.Helper()
	conn, peer := pipePair(t)
	w := sendq.NewWriter(conn, opts)
	t.Cleanup(func() { w.CloseNow() })
	return w, peer
}

// stalledClose returns a connection with stuck writes. Close ends these, and is stuck until
// releaseClose.
func stalledClose() (conn *hookedConn, releaseClose func()) {
	gate := make(chan struct{})
	conn = hooked(stalledPeer())
	conn.Enter = func(method string) {
		if method == "Close" {
			<-gate
		}
	}
	return conn, sync.OnceFunc(func() { close(gate) })
}

// take reads n bytes.
func take(t *testing.T, peer net.Conn, n int) string {
	t.Helper()
	p := make([]byte, n)
	_, err := io.ReadFull(peer, p)
	require.NoError(t, err)
	return string(p)
}

func requireTake(t *testing.T, peer net.Conn, want string) {
	t.Helper()
	require.Equal(t, want, take(t, peer, len(want)))
}

// A hookedConn calls the test when the Writer calls it, and watches its writes.
type hookedConn struct {
	*sendqtest.Conn

	// Fault, if not nil, decides the result of a write of p: the connection gets the first n
	// bytes, and Write returns n, err, even if n is out of range. Set it before the first write.
	Fault func(p []byte) (n int, err error)

	// Enter, if not nil, is called with the method's name when Write, Close, SetWriteDeadline or
	// LocalAddr begins. Set it before the first write.
	Enter func(method string)

	mu       sync.Mutex
	writing  int // calls of Write in progress
	together int // the highest value of writing
	failed   bool
	late     int // writes after a failed one
}

func hooked(conn *sendqtest.Conn) *hookedConn { return &hookedConn{Conn: conn} }

func (c *hookedConn) Write(p []byte) (n int, err error) {
	c.enter("Write")
	c.mu.Lock()
	c.writing++
	c.together = max(c.together, c.writing)
	if c.failed {
		c.late++
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.writing--
		c.failed = c.failed || err != nil || n != len(p)
	}()
	if c.Fault == nil {
		return c.Conn.Write(p)
	}
	n, err = c.Fault(p)
	if wrote, failed := c.Conn.Write(p[:min(max(n, 0), len(p))]); failed != nil {
		return wrote, failed
	}
	return n, err
}

func (c *hookedConn) Close() error {
	c.enter("Close")
	return c.Conn.Close()
}

func (c *hookedConn) SetWriteDeadline(at time.Time) error {
	c.enter("SetWriteDeadline")
	return c.Conn.SetWriteDeadline(at)
}

func (c *hookedConn) LocalAddr() net.Addr {
	c.enter("LocalAddr")
	return c.Conn.LocalAddr()
}

func (c *hookedConn) enter(method string) {
	if c.Enter != nil {
		c.Enter(method)
	}
}

// Together returns the largest number of writes in progress at the same time.
func (c *hookedConn) Together() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.together
}

// Late returns the number of writes after one had failed.
func (c *hookedConn) Late() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}
