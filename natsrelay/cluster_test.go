package natsrelay

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A natsCluster is several NATS servers, usually three.
type natsCluster []*natsServer

func newNATSCluster(dir string) natsCluster { return newNATSClusterOf(3, dir) }

func newNATSClusterOf(servers int, dir string) (c natsCluster) {
	clients, routes := freePorts(servers), freePorts(servers)
	var urls []string
	for _, port := range routes {
		urls = append(urls, fmt.Sprint("nats-route://127.0.0.1:", port))
	}
	for i := range servers {
		c = append(c, &natsServer{args: []string{
			"-a", "127.0.0.1", "-p", fmt.Sprint(clients[i]), "-n", fmt.Sprint("s", i),
			"-js", "-sd", filepath.Join(dir, fmt.Sprint(i)),
			"-cluster_name", "test", "-cluster", urls[i], "-routes", strings.Join(urls, ","),
		}})
		c[i].start()
	}
	for _, s := range c {
		s.waitUntilReady()
	}
	return c
}

// freePorts returns ports that were free a moment ago, because the servers of a cluster must know
// each other's ports before they start, and a restarted server keeps its port. The system does not
// choose ports in this range.
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

func (c natsCluster) stop() {
	for _, s := range c {
		s.stop()
	}
}

// url returns the addresses of the given servers, or of all.
func (c natsCluster) url(servers ...int) string {
	if servers == nil {
		servers = []int{0, 1, 2}
	}
	var urls []string
	for _, i := range servers {
		urls = append(urls, c[i].url)
	}
	return strings.Join(urls, ",")
}

// servers returns the cluster for tests that stop no server.
func servers(t testing.TB) natsCluster {
	t.Helper()
	requireServers(t)
	return sharedCluster()
}

var sharedCluster = sync.OnceValue(func() natsCluster {
	dir, err := os.MkdirTemp("", "natsrelay")
	must(err)
	c := newNATSCluster(dir)
	atExit(func() {
		c.stop()
		_ = os.RemoveAll(dir)
	})
	return c
})

// atExit has f called after the last test.
func atExit(f func()) { cleanups = append(cleanups, f) }

var cleanups []func()

func TestMain(m *testing.M) {
	if config := os.Getenv("NATSRELAY_LAB"); config != "" {
		must(labProgram(config))
		return
	}
	code := m.Run()
	for _, f := range cleanups {
		f()
	}
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
