package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// patient is a listener that outlives errors. Too many open files, for example, become fewer when
// users leave.
type patient struct {
	net.Listener
	log *slog.Logger
}

func (p patient) Accept() (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := p.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		p.log.Warn("cannot accept, trying again", "error", err, "pause", pause)
		time.Sleep(pause)
	}
}

// Admit counts a connection from addr until release is called, once. It fails if addr has too many
// connections; release must be called nevertheless. The error is for the client. A session calls Admit
// unless its connection is a Conn.
func (s *Server) Admit(addr net.Addr) (release func(), err error) { return s.addresses.add(addr) }

// addresses count connections.
type addresses struct {
	max int // for an address; 0: no limit
	mu  sync.Mutex
	n   map[netip.Addr]int
}

func (a *addresses) add(addr net.Addr) (release func(), err error) {
	if a.max == 0 {
		return func() {}, nil
	}
	ip := ipOf(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == nil {
		a.n = make(map[netip.Addr]int)
	}
	a.n[ip]++
	if a.n[ip] > a.max {
		err = fmt.Errorf("your address has more than %d connections", a.max)
	}
	return func() { a.remove(ip) }, err
}

func (a *addresses) remove(ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n[ip]--
	if a.n[ip] == 0 {
		delete(a.n, ip)
	}
}

// ipOf returns the address to count for addr. For IPv6 it is the network of 64 bits, because every
// customer has at least one.
func ipOf(addr net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{} // for example a Unix socket
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is6() {
		network, _ := ip.Prefix(64)
		return network.Addr()
	}
	return ip
}
