package natsrelay

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// A natsCluster is three NATS servers in this process.
type natsCluster struct {
	options []*server.Options
	servers []*server.Server
}

func newNATSCluster(dir string) *natsCluster {
	c := &natsCluster{servers: make([]*server.Server, 3)}
	clients, routes := freePorts(3), freePorts(3)
	var urls []*url.URL
	for _, port := range routes {
		urls = append(urls, &url.URL{Scheme: "nats-route", Host: fmt.Sprint("127.0.0.1:", port)})
	}
	for i := range c.servers {
		c.options = append(c.options, &server.Options{
			ServerName: fmt.Sprint("s", i),
			Host:       "127.0.0.1",
			Port:       clients[i],
			JetStream:  true,
			StoreDir:   filepath.Join(dir, fmt.Sprint(i)),
			NoLog:      true,
			NoSigs:     true,
			Cluster:    server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: routes[i]},
			Routes:     urls,
		})
		c.start(i)
	}
	for start := time.Now(); !c.isReady(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			panic("the NATS servers do not start")
		}
	}
	return c
}

// isReady reports whether JetStream has a leader and all servers are healthy.
func (c *natsCluster) isReady() bool {
	hasLeader := false
	for _, s := range c.servers {
		if s.Healthz(nil).Status != "ok" {
			return false
		}
		hasLeader = hasLeader || s.JetStreamIsLeader()
	}
	return hasLeader
}

// freePorts returns ports that were free a moment ago, because the servers of a cluster must know
// each other's ports before they start. The system does not choose ports in this range.
func freePorts(n int) (ports []int) {
	for len(ports) < n {
		port := 10000 + rand.IntN(20000)
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			defer l.Close()
			ports = append(ports, port)
		}
	}
	return ports
}

// start starts a server. It does not wait until the server is ready.
func (c *natsCluster) start(i int) {
	s, err := server.NewServer(c.options[i].Clone())
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
}

// url returns the addresses of the given servers, or of all.
func (c *natsCluster) url(servers ...int) string {
	if servers == nil {
		servers = []int{0, 1, 2}
	}
	var urls []string
	for _, i := range servers {
		urls = append(urls, fmt.Sprint("nats://127.0.0.1:", c.options[i].Port))
	}
	return strings.Join(urls, ",")
}

// servers returns the cluster for tests that stop no server.
var servers = sync.OnceValue(func() *natsCluster {
	dir, err := os.MkdirTemp("", "natsrelay")
	if err != nil {
		panic(err)
	}
	c := newNATSCluster(dir)
	stopServers = func() {
		c.stopAll()
		_ = os.RemoveAll(dir)
	}
	return c
})

var stopServers = func() {}

func TestMain(m *testing.M) {
	code := m.Run()
	stopServers()
	os.Exit(code)
}

// clusterName returns a cluster name that is unique to this run of a test.
func clusterName(t testing.TB) string {
	name, ok := clusterNames.Load(t)
	if !ok {
		name, _ = clusterNames.LoadOrStore(t, "test-"+newNodeID(""))
	}
	return name.(string)
}

var clusterNames sync.Map

// testTimeout bounds every wait.
const testTimeout = 30 * time.Second

// eventually waits until f returns true.
func eventually(t testing.TB, f func() bool, what ...any) {
	t.Helper()
	require.Eventually(t, f, testTimeout, 5*time.Millisecond, what...)
}
