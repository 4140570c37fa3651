package natsrelay

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/require"
)

// TestLog cuts a node off until another one has one of its names. The log of the node tells the story.
func TestLog(t *testing.T) {
	log := new(logBuffer)
	opts := Options{Lease: time.Second}
	p, natsOptions := newProxy(t, servers(t).url(0))
	b := newFake(t, servers(t).url(1), opts)
	opts.Log = slog.New(slog.NewTextHandler(log, nil))
	a := newFake(t, p.url(), opts, natsOptions...)
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	p.cut()
	b.relay.Post(a.relay.id, relay.Delivery{Messages: [][]byte{[]byte("lost")}}, nil)
	eventually(t, func() bool { return !a.knows(b) && !b.knows(a) })
	_, _, err = b.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	p.restore()
	eventually(t, func() bool { return slices.Equal(a.recorded().lost, []string{"x"}) })
	waitUntilAllKnow(t, a, b)
	eventually(t, func() bool { return a.recorded().gaps > 0 && b.recorded().gaps > 0 }) // more if the machine is busy
	for _, want := range []string{
		`msg="node reachable"`, `msg="NATS connection lost"`, `msg="lease not renewed"`, `msg="moving to another NATS server"`,
		`msg="node unreachable"`, `msg="NATS connection restored"`, `msg="lease renewed again"`,
		`msg="messages missed" node=` + a.relay.id + ` peer=` + b.relay.id + ` messages=1`,
		`msg="messages missed" node=` + a.relay.id + ` peer=` + b.relay.id + ` messages=unknown`,
		`msg="name lost to another node" node=` + a.relay.id + ` name=x`,
	} {
		eventually(t, func() bool { return strings.Contains(log.String(), want) }, want)
	}
}

// A logBuffer is a log that can be read at any time.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
