package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	random "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

// A network creates connections between the process and itself.
type network struct {
	dir       string
	tcp, unix net.Listener
}

func (n *network) listen() (err error) {
	if n.dir, err = os.MkdirTemp("", "soak"); err != nil {
		return err
	}
	if n.unix, err = net.Listen("unix", filepath.Join(n.dir, "socket")); err != nil {
		return errors.Join(err, os.RemoveAll(n.dir))
	}
	if n.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		n.unix.Close()
		return errors.Join(err, os.RemoveAll(n.dir))
	}
	return nil
}

func (n *network) close() {
	n.tcp.Close()
	n.unix.Close()
	os.RemoveAll(n.dir)
}

// connect creates a connection of a random kind, with random buffer sizes.
func (n *network) connect(rng *random.Rand, opts *sendq.WriterOptions) (*session, error) {
	kind := rng.IntN(4)
	l := n.tcp
	if kind < 2 {
		l = n.unix
	}
	peer, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		return nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		peer.Close()
		return nil, err
	}
	if rng.IntN(2) == 0 {
		err = errors.Join(conn.(buffered).SetWriteBuffer(16<<10), peer.(buffered).SetReadBuffer(64<<10))
	}
	session := &session{peer: peer, inner: peer, received: make(chan struct{})}
	if kind == 3 {
		server, client := tls.Server(conn, serverConfig()), tls.Client(peer, &tls.Config{InsecureSkipVerify: true})
		handshake := make(chan error)
		go func() { handshake <- server.Handshake() }()
		err = errors.Join(err, client.Handshake(), <-handshake)
		conn, session.peer = server, client
	}
	if err != nil {
		conn.Close()
		peer.Close()
		return nil, err
	}
	session.w = sendq.NewWriter(conn, opts)
	go session.receive()
	return session, nil
}

type buffered interface {
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

// serverConfig returns the configuration of TLS servers.
var serverConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})
