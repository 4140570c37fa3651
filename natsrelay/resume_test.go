package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/sendq-go/sendq/sendqtest"
	"github.com/stretchr/testify/require"
)

// lingering are the options of Brokers whose names linger.
var lingering = sendq.BrokerOptions{Linger: time.Hour}

// A device is the connection of a peer that resumes.
type device struct {
	*sendqtest.Conn
	writer  *sendq.Writer
	closing chan struct{} // Close waits for it, unless it is nil
}

func newDevice() *device {
	d := &device{Conn: sendqtest.NewConn()}
	d.writer = sendq.NewWriter(d, &sendq.WriterOptions{Keep: 1 << 20})
	return d
}

func (d *device) Close() error {
	if d.closing != nil {
		<-d.closing
	}
	return d.Conn.Close()
}

// resume resumes the connection of bob at a node. The answer to the device is the line "back".
func (d *device) resume(ctx context.Context, n *brokerNode, received int64) (sendq.Resumed, error) {
	return n.Resume(ctx, "bob", d.writer, received, func(sendq.Resumed) []byte { return []byte("back\n") })
}

// A correspondent sends numbered lines to bob, from one node after another.
type correspondent struct {
	nodes []*brokerNode
	sent  int
}

func (c *correspondent) send(t *testing.T, n int) {
	t.Helper()
	for range n {
		require.NoError(t, c.nodes[c.sent%len(c.nodes)].Send("bob", fmt.Appendf(nil, "line %d\n", c.sent)))
		c.sent++
	}
}

// linesOf returns what a correspondent sends.
func linesOf(from, to int) (lines []string) {
	for i := from; i < to; i++ {
		lines = append(lines, fmt.Sprint("line ", i))
	}
	return lines
}

// requireGot waits until the device has the lines, and no other ones.
func (d *device) requireGot(t *testing.T, lines ...string) {
	t.Helper()
	require.NoError(t, d.writer.Flush(t.Context()))
	require.Equal(t, strings.Join(lines, "\n")+"\n", string(d.Bytes()))
}

// register gives bob to a device at a node that keeps the lines 1 to 4. Line 0 is acknowledged, and the
// lines 5 to 7 are pending.
func (c *correspondent) register(t *testing.T, n *brokerNode) *device {
	t.Helper()
	old := newDevice()
	require.NoError(t, n.Register("bob", old.writer))
	for _, n := range c.nodes {
		eventually(t, func() bool { return n.hasNames("bob") })
	}
	c.send(t, 5)
	old.requireGot(t, linesOf(0, 5)...)
	require.NoError(t, old.writer.Acknowledge(1))
	old.Stall()
	c.send(t, 3)
	return old
}

// newLingeringNodes returns nodes that know each other.
func newLingeringNodes(t *testing.T, n int, opts Options) (nodes []*brokerNode) {
	for i := range n {
		nodes = append(nodes, newBrokerNode(t, servers(t).url(i), opts, lingering))
	}
	waitUntilConnected(t, nodes...)
	return nodes
}

// isHandedBack reports whether OnUndelivered of a node has got the lines to bob.
func (c *brokerNode) isHandedBack(lines []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.handedBack["bob"], ",") == strings.Join(lines, ",")
}

// TestResumeAtAnotherNode resumes a name with kept and pending messages, and with some that came while
// it was away, at another node and back again.
func TestResumeAtAnotherNode(t *testing.T) {
	nodes := newLingeringNodes(t, 2, Options{})
	a, b := nodes[0], nodes[1]
	c := &correspondent{nodes: nodes}
	old := c.register(t, a)
	require.NoError(t, a.Room("room").Join("bob"))
	require.NoError(t, old.writer.Fail(io.EOF))
	eventually(t, func() bool { return b.hasEvent(func(e sendq.Event) bool { return e.Kind == sendq.EventAway }) })
	c.send(t, 4)

	there := newDevice()
	resumed, err := there.resume(t.Context(), b, 3)
	require.NoError(t, err)
	require.Equal(t, sendq.Resumed{Messages: 9}, resumed)
	c.send(t, 4)
	there.requireGot(t, append([]string{"back"}, linesOf(3, 16)...)...)
	eventually(t, func() bool { return b.hasEvent(func(e sendq.Event) bool { return e.Kind == sendq.EventBack }) })

	again := newDevice()
	resumed, err = again.resume(t.Context(), a, 14)
	require.NoError(t, err)
	require.Equal(t, sendq.Resumed{Messages: 2}, resumed)
	require.ErrorIs(t, there.writer.Err(), sendq.ErrTakenOver)
	c.send(t, 4)
	again.requireGot(t, append([]string{"back"}, linesOf(14, 20)...)...)
	for _, n := range nodes {
		eventually(t, func() bool { return n.hasNames("bob") && len(membersOf(n.Room("room"))) == 1 })
		require.True(t, n.isHandedBack(nil))
		require.False(t, n.hasEvent(func(e sendq.Event) bool { return e.Kind == sendq.EventLeft }))
	}
}

// TestResumeAgain resumes at one node after another, before anything has arrived. The peer says the same
// count each time.
func TestResumeAgain(t *testing.T) {
	nodes := newLingeringNodes(t, 3, Options{})
	c := &correspondent{nodes: nodes}
	c.register(t, nodes[0])
	for i := range 4 {
		d := newDevice()
		d.Stall()
		resumed, err := d.resume(t.Context(), nodes[(i+1)%3], 3)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 5}, resumed, i)
		if i == 3 {
			d.Release()
			d.requireGot(t, append([]string{"back"}, linesOf(3, 8)...)...)
		}
	}
}

// TestResumeAfterDeath resumes a name whose node has died. What that node kept is gone, and nobody knows
// how much that is.
func TestResumeAfterDeath(t *testing.T) {
	nodes := newLingeringNodes(t, 2, Options{Lease: time.Second})
	c := &correspondent{nodes: nodes}
	c.register(t, nodes[0])
	nodes[0].relay.stop()
	d := newDevice()
	resumed, err := d.resume(t.Context(), nodes[1], 3)
	require.NoError(t, err)
	require.Equal(t, sendq.Resumed{Missed: -1}, resumed)
	c.nodes = nodes[1:]
	c.send(t, 2)
	d.requireGot(t, append([]string{"back"}, linesOf(8, 10)...)...)
}

// TestResumeRace resumes a name at two nodes at the same time, with the same count. The node that has
// the name in the end has got everything, and no device gets a line twice.
func TestResumeRace(t *testing.T) {
	nodes := newLingeringNodes(t, 3, Options{})
	c := &correspondent{nodes: nodes}
	old := c.register(t, nodes[0])
	received := 3
	for range 10 {
		var devices []*device
		var racing sync.WaitGroup
		results := make([]sendq.Resumed, 2)
		errs := make([]error, 2)
		for i, n := range nodes[1:] {
			d := newDevice()
			devices = append(devices, d)
			racing.Go(func() { results[i], errs[i] = d.resume(t.Context(), n, int64(received)) })
		}
		racing.Wait()
		require.NoError(t, errors.Join(errs...))
		require.ErrorIs(t, old.writer.Err(), sendq.ErrTakenOver)
		winner := 0
		if devices[0].writer.Err() != nil {
			winner = 1
		}
		require.NoError(t, devices[winner].writer.Err())
		require.ErrorIs(t, devices[1-winner].writer.Err(), sendq.ErrTakenOver)
		require.Equal(t, sendq.Resumed{Messages: c.sent - received}, results[winner])
		all := append([]string{"back"}, linesOf(received, c.sent)...)
		devices[winner].requireGot(t, all...)
		require.True(t, strings.HasPrefix(strings.Join(all, "\n")+"\n", string(devices[1-winner].Bytes())))
		old, received = devices[winner], c.sent-2
		c.send(t, 3)
	}
	for _, n := range nodes {
		require.True(t, n.isHandedBack(nil))
	}
}

// TestResumeIsGivenUp gives up to resume while the old Writer takes its time to end. What it has left
// goes to OnUndelivered with what it has kept: of the node that has asked, or of the old one if that is
// gone.
func TestResumeIsGivenUp(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("dies %v", dies), func(t *testing.T) {
			nodes := newLingeringNodes(t, 2, Options{Lease: time.Second})
			a, b := nodes[0], nodes[1]
			c := &correspondent{nodes: nodes}
			old := c.register(t, a)
			old.closing = make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				_, err := newDevice().resume(ctx, b, 3)
				ended <- err
			}()
			eventually(t, func() bool { _, isHere := a.Lookup("bob"); return !isHere })
			cancel()
			require.ErrorIs(t, <-ended, context.Canceled)
			if dies {
				b.relay.stop()
				eventually(t, func() bool { return a.relay.peer(b.id) == nil || !a.relay.peer(b.id).isReachable() })
			}
			close(old.closing)
			to := map[bool]*brokerNode{false: b, true: a}[dies]
			eventually(t, func() bool { return to.isHandedBack(linesOf(1, 8)) })
		})
	}
}

// TestMergedHandover merges what two Writers of one name have left. A peer cannot have counted the
// messages of both, so the count is unknown, and what was written does not come again.
func TestMergedHandover(t *testing.T) {
	of := func(messages ...string) (p [][]byte) {
		for _, m := range messages {
			p = append(p, []byte(m))
		}
		return p
	}
	first := response{found: true, messages: of("kept", "pending"), kept: 1, written: 7, hasCount: true, resumedAt: 5, missed: 2, rooms: []string{"old"}}
	a := first
	a.append(response{})
	require.Equal(t, first, a, "nobody has registered the name again")
	a.append(response{found: true, messages: of("kept later", "pending later"), kept: 1, written: 3, hasCount: true, rooms: []string{"new"}})
	require.Equal(t, relay.Handover{Undelivered: of("pending", "pending later"), Rooms: []string{"new"}}, a.handover())
}
