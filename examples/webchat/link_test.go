package main

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A network is between browsers and the page of a process.
type network struct {
	t    *testing.T
	page string // the URL of the page, through the network
	to   string // the address of the process

	mu      sync.Mutex
	links   map[*netLink]bool
	isDead  bool // what is sent over new links is lost
	cutting bool
	left    int // bytes to the browsers until the cut
}

// A netLink is a connection through the network.
type netLink struct {
	browser, server net.Conn
	isDead          bool // what is sent is lost
	isDeaf          bool // what the browser sends is lost
}

func newNetwork(t *testing.T, p *process) *network {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &network{t: t, page: "http://" + l.Addr().String(), to: strings.TrimPrefix(p.page, "http://"), links: make(map[*netLink]bool)}
	t.Cleanup(func() {
		l.Close()
		n.cut()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.connect(conn)
		}
	}()
	return n
}

func (n *network) connect(browser net.Conn) {
	server, err := net.Dial("tcp", n.to)
	if err != nil {
		browser.Close()
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &netLink{browser: browser, server: server, isDead: n.isDead}
	n.links[l] = true
	go n.copy(l, l.server, l.browser)
	go n.copy(l, l.browser, l.server)
}

// copy copies from one end of a link to the other.
func (n *network) copy(l *netLink, to, from net.Conn) {
	p := make([]byte, 4<<10)
	for {
		size, err := from.Read(p)
		if !n.write(l, to, p[:size]) {
			return
		}
		if err != nil {
			n.mu.Lock()
			n.reset(l)
			n.mu.Unlock()
			return
		}
	}
}

// write returns false after the end of the link.
func (n *network) write(l *netLink, to io.Writer, p []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	cut := n.cutting && to == l.browser && len(p) >= n.left
	switch {
	case cut:
		p = p[:n.left]
		n.cutting = false
	case n.cutting && to == l.browser:
		n.left -= len(p)
	}
	if !l.isDead && !(l.isDeaf && to == l.server) {
		_, _ = to.Write(p) // small enough for the kernel
	}
	if cut {
		n.resetAll()
	}
	return n.links[l]
}

// reset resets both connections of a link. mu is held.
func (n *network) reset(l *netLink) {
	if l.isDead {
		return // its ends notice nothing
	}
	delete(n.links, l)
	for _, conn := range []net.Conn{l.browser, l.server} {
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

func (n *network) resetAll() {
	for l := range n.links {
		n.reset(l)
	}
}

// cutDead lets the ends of the dead links notice.
func (n *network) cutDead() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		l.isDead = false
	}
	n.resetAll()
}

// cutAfter resets all links when the browsers have received that many more bytes.
func (n *network) cutAfter(bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutting, n.left = true, bytes
}

// cut resets all links that are not dead.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resetAll()
}

// die loses all that is sent over the links from now on. Their ends notice nothing. If all is true, the
// same goes for new links.
func (n *network) die(all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isDead = all
	for l := range n.links {
		l.isDead = true
	}
}

// deafen loses all that browsers send over the links from now on.
func (n *network) deafen() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		l.isDeaf = true
	}
}

// heal lets new links work.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isDead = false
}
