package natsrelay

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// A proxy forwards the connections of a node to a server. It can cut or stall them.
type proxy struct {
	listener net.Listener
	server   string

	mu        sync.Mutex
	change    *sync.Cond
	conns     map[net.Conn]bool
	isCut     bool // connections are closed, also new ones
	isStalled bool // nothing is forwarded to the node
}

// newProxy returns a proxy for the server at url, and options for a node that connects through it.
func newProxy(t *testing.T, url string) (*proxy, []nats.Option) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, server: strings.TrimPrefix(url, "nats://"), conns: make(map[net.Conn]bool)}
	p.change = sync.NewCond(&p.mu)
	go p.serve()
	t.Cleanup(func() {
		l.Close()
		p.cut()
	})
	return p, []nats.Option{nats.IgnoreDiscoveredServers(), nats.ReconnectWait(50 * time.Millisecond)}
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) serve() {
	for {
		node, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			node.Close()
			continue
		}
		p.add(node, server)
		go p.copy(server, node, func() {})
		go p.copy(node, server, p.waitWhileStalled)
	}
}

func (p *proxy) add(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
		if p.isCut {
			c.Close()
		}
	}
}

func (p *proxy) copy(to, from net.Conn, wait func()) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 64<<10)
	for {
		wait()
		n, err := from.Read(b)
		if err != nil {
			return
		}
		wait()
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) waitWhileStalled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.isStalled {
		p.change.Wait()
	}
}

// cut closes the connections of the node.
func (p *proxy) cut() {
	p.set(true, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// stall stops everything to the node.
func (p *proxy) stall() { p.set(false, true) }

// restore ends a cut or a stall.
func (p *proxy) restore() { p.set(false, false) }

func (p *proxy) set(isCut, isStalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut, p.isStalled = isCut, isStalled
	p.change.Broadcast()
}
