package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// A natsCluster is three NATS servers in this process. The first server and the others connect
// through a wall, so that a test can cut them off from each other.
type natsCluster struct {
	dir     string
	options []*natsserver.Options
	servers []*natsserver.Server
	wall    wall
}

// servers returns the cluster for all tests. All servers run when a test begins.
var servers = sync.OnceValue(newNATSCluster)

func newNATSCluster() *natsCluster {
	dir, err := os.MkdirTemp("", "clusterchat-test-*")
	if err != nil {
		panic(err)
	}
	c := &natsCluster{dir: dir, servers: make([]*natsserver.Server, 3)}
	var inside, outside []string // the addresses for other servers, directly and through the wall
	for range c.servers {
		inside = append(inside, freeAddr())
		outside = append(outside, c.wall.gate(inside[len(inside)-1]))
	}
	for i := range c.servers {
		o := &natsserver.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: port(freeAddr()), NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprint(i)),
			// A client stays at the server that it connects to.
			Cluster: natsserver.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port(inside[i]), Advertise: outside[i], NoAdvertise: true},
		}
		for j := range c.servers {
			addr := inside[j]
			if i == 0 || j == 0 {
				addr = outside[j]
			}
			if i != j {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: addr})
			}
		}
		c.options = append(c.options, o)
	}
	for i := range slices.Backward(c.servers) { // the first one last, when the others know each other
		c.start(i)
	}
	atExit = append(atExit, c.stopAll)
	return c
}

// freeAddr returns an address that was free a moment ago. The system does not choose ports in this
// range.
func freeAddr() string {
	for {
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10000+rand.IntN(20000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
}

func port(addr string) int {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	return a.Port
}

func (c *natsCluster) start(i int) {
	s, err := natsserver.NewServer(c.options[i].Clone())
	if err != nil {
		panic(err)
	}
	s.Start()
	c.servers[i] = s
}

func (c *natsCluster) stop(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
}

func (c *natsCluster) stopAll() {
	for i := range c.servers {
		c.stop(i)
	}
	_ = os.RemoveAll(c.dir)
}

// url returns the address of a server.
func (c *natsCluster) url(i int) string { return fmt.Sprint("nats://127.0.0.1:", c.options[i].Port) }

// urls returns the addresses of all servers.
func (c *natsCluster) urls() string { return c.url(0) + "," + c.url(1) + "," + c.url(2) }

// waitUntilHealthy waits until all servers are connected and up to date.
func (c *natsCluster) waitUntilHealthy(t *testing.T) {
	eventually(t, func() bool {
		hasLeader := false
		for _, s := range c.servers {
			if s.Healthz(nil).Status != "ok" || s.NumRoutes() == 0 {
				return false
			}
			hasLeader = hasLeader || s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(c.servers)
		}
		return hasLeader
	})
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	require.Eventually(t, f, patience, 10*time.Millisecond)
}

// A wall closes all connections through its gates while it is shut.
type wall struct {
	mu     sync.Mutex
	isShut bool
	conns  []net.Conn
}

// gate starts a proxy for an address and returns the address of the proxy.
func (w *wall) gate(to string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			outer, err := l.Accept()
			if err != nil {
				panic(err)
			}
			inner, err := net.Dial("tcp", to)
			if err != nil || !w.pass(outer, inner) {
				outer.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{outer, inner}, {inner, outer}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				}()
			}
		}
	}()
	return l.Addr().String()
}

// pass registers connections, and reports whether the wall is open. If not, it closes them.
func (w *wall) pass(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, conns...)
	if w.isShut {
		w.closeAll()
	}
	return !w.isShut
}

// shut cuts the first server off from the others.
func (w *wall) shut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isShut = true
	w.closeAll()
}

func (w *wall) closeAll() {
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func (w *wall) open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isShut = false
}
