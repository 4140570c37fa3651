package server

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Admit counts a connection from addr until release is called, which must be once. The error
// says, for the client, that there are too many; release must be called nevertheless. Serve
// calls it for those that it accepts.
func (s *Server) Admit(addr net.Addr) (release func(), err error) {
	if s.addresses == nil {
		return releaseNothing, nil
	}
	ip := ipOf(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addresses[ip]++
	if s.addresses[ip] > s.opts.PerAddress {
		err = fmt.Errorf("your address has more than %d connections", s.opts.PerAddress)
	}
	return func() { s.release(ip) }, err
}

func releaseNothing() {}

func (s *Server) release(ip netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addresses[ip]--
	if s.addresses[ip] == 0 {
		delete(s.addresses, ip)
	}
}

// ipOf returns the address that counts for addr. Of IPv6 that is the network of 64 bits, which
// is the least that one customer has.
func ipOf(addr net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{} // such as a Unix socket
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is6() {
		network, _ := ip.Prefix(64)
		return network.Addr()
	}
	return ip
}

// burst is how long a user may have been silent to say what they did not say then at once.
const burst = 4 * time.Second

// A pace is how fast a user says lines. A nil *pace allows any number.
type pace struct {
	each       time.Duration // the time of one line
	spent      time.Time     // up to when lines have been said; it is ahead by burst at most
	complained time.Time     // when the user was told last
}

func newPace(linesPerSecond int) *pace {
	if linesPerSecond == 0 {
		return nil
	}
	return &pace{each: time.Second / time.Duration(linesPerSecond)}
}

// allows counts a line, unless there were too many.
func (p *pace) allows() bool {
	if p == nil {
		return true
	}
	now := time.Now()
	if p.spent.Before(now) {
		p.spent = now
	}
	next := p.spent.Add(p.each)
	if next.Sub(now) > burst {
		return false
	}
	p.spent = next
	return true
}

// mayComplain tells whether the user may be told of it, once a second: the answers must not
// become the flood that the limit keeps away.
func (p *pace) mayComplain() bool {
	now := time.Now()
	if now.Sub(p.complained) < time.Second {
		return false
	}
	p.complained = now
	return true
}
