package netlab

import (
	"sync"
	"testing"
)

// A Hub connects any number of hosts for the duration of a test. Each has the address Addr(0). The
// links between them are perfect until Set or Cut.
type Hub struct {
	Hosts []*Host
	links [][]*Link // by the index of the sending host, then of the receiving host
}

// NewHub creates a hub and its hosts. If the machine does not allow it, NewHub calls missing.Skip, or
// skips the test where it is not run by root.
func NewHub(t testing.TB, hosts int) *Hub {
	t.Helper()
	h := &Hub{links: make([][]*Link, hosts)}
	var forwarding sync.WaitGroup
	t.Cleanup(func() {
		for _, host := range h.Hosts {
			host.close()
		}
		forwarding.Wait()
	})
	for i := range hosts {
		host := newHost(byte(i + 1))
		h.Hosts = append(h.Hosts, host)
		if _, err := host.attach(0); err != nil {
			unavailable(t, err)
		}
	}
	for i, from := range h.Hosts {
		for j, to := range h.Hosts {
			h.links[i] = append(h.links[i], newLink(to.tuns[0], uint64(i*hosts+j)))
		}
		forwarding.Go(func() { forward(from.tuns[0], h.links[i], h.route(i)) })
		if err := from.configure(1); err != nil {
			unavailable(t, err)
		}
	}
	return h
}

// route returns a function that returns the link of an IPv4 packet from a host.
func (h *Hub) route(from int) func(packet []byte) *Link {
	return func(packet []byte) *Link {
		const lastOfDestination = 19
		if len(packet) <= lastOfDestination {
			return nil
		}
		if to := int(packet[lastOfDestination]) - 1; 0 <= to && to < len(h.Hosts) {
			return h.links[from][to]
		}
		return nil
	}
}

// Link returns the link from a host to another one, by their indexes.
func (h *Hub) Link(from, to int) *Link { return h.links[from][to] }

// Each calls f with the links between a host and all others, in both directions.
func (h *Hub) Each(host int, f func(*Link)) {
	for other := range h.Hosts {
		if other != host {
			f(h.links[host][other])
			f(h.links[other][host])
		}
	}
}
