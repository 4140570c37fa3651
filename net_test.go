package sendq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain fails the run if a goroutine or a socket is left over at its end.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // fuzzing leaves a goroutine for signals
	}
	// Parallel tests wait for a kernel's or a peer's time to pass. They wait together.
	flag.Set("test.parallel", "32")
	goroutines, sockets := runtime.NumGoroutine(), openSockets()
	code := m.Run()
	// What has been told to end may take a moment.
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines || openSockets() > sockets; {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "left over: %d goroutines and %d sockets; all goroutines:\n%s\n",
				runtime.NumGoroutine()-goroutines, openSockets()-sockets, stacks[:runtime.Stack(stacks, true)])
			code = max(code, 1)
			break
		}
		time.Sleep(time.Millisecond)
	}
	os.Exit(code)
}

// goroutinesLeft counts goroutines. Where there are more than expected it lets those that are
// about to end do so, and those of the runtime that call finalizers.
func goroutinesLeft(expected int) (n int) {
	for range 10_000_000 { // some seconds, by no clock: it may be that of a bubble
		if n = runtime.NumGoroutine(); n <= expected {
			break
		}
		runtime.Gosched()
	}
	return n
}

// openSockets counts the sockets of this process, where /proc tells.
func openSockets() (n int) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// A transport makes connected pairs of one kind, which live as long as the test.
type transport struct {
	name string
	pair func(t testing.TB) (conn, peer net.Conn)
}

// The sockets buffer on the way; on a pipe a write waits for the reader.
var (
	sockets    = []transport{{"TCP", tcpPair}, {"TLS", tlsPair}, {"Unix", unixPair}, {"Wrapped", wrappedPair}}
	transports = append(sockets[:len(sockets):len(sockets)], transport{"Pipe", pipePair})
)

// over runs test once for each transport, as subtests.
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

// tlsPair has the handshake behind it, and the server on the side of conn.
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

// A wrappedConn is what programs make to count bytes or log: it hides all of the
// connection beneath but the methods of net.Conn, and tells where that is.
type wrappedConn struct{ net.Conn }

func (c wrappedConn) NetConn() net.Conn { return c.Conn }

// connect listens at address, for one connection, and makes it.
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

// socketPath returns where to bind a Unix socket. The directory of t may have too
// long a name for that.
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

// innermost returns the connection at the bottom of the wrappers around it.
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

// tlsConfig returns a configuration for both sides: a certificate for 127.0.0.1, and
// the trust in it.
var tlsConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1<<32, 0), // whatever the clock says, for a bubble has its own
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

// async calls f in a goroutine; the channel brings its result.
func async[T any](f func() T) <-chan T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return result
}

// letters returns n bytes of text that repeats nowhere near.
func letters(n int) []byte {
	var b []byte
	for i := int64(0); len(b) < n; i++ {
		b = append(strconv.AppendInt(b, i, 16), '.')
	}
	return b[:n:n]
}
