//go:build linux

package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// TestMain lets the test binary run as one of the built-in servers.
func TestMain(m *testing.M) {
	serveIfAsked()
	os.Exit(m.Run())
}

// tiny returns a bench with the smallest amount of measurement. It measures the services named
// by only, or all installed ones.
func tiny(t *testing.T, only ...string) *bench {
	root, err := findRoot()
	require.NoError(t, err)
	b := &bench{quiet: true, dir: t.TempDir()}
	b.services, err = services(b.dir, root, "of the test")
	require.NoError(t, err)
	if only != nil {
		b.services = slices.DeleteFunc(b.services, func(s service) bool { return !slices.Contains(only, s.name) })
	}
	b.rounds = 1
	b.writer.sizes, b.writer.senders = []int{64, 1024}, []int{1, 3}
	b.writer.time, b.writer.bytes = time.Millisecond, 64<<10
	b.roundtrip.blocks, b.roundtrip.trips = 2, 10
	b.fanout.members, b.fanout.inFlight, b.fanout.publishers = []int{5}, []int{1, 3, 8}, []int{1, 2}
	b.fanout.time = 5 * time.Millisecond
	b.stalled.members, b.stalled.inFlight, b.stalled.windows, b.stalled.stalled = 5, 2, 3, []int{0, 1}
	b.idle.writers, b.idle.connections, b.idle.many = 10, 5, 5
	b.relay.messages, b.relay.members, b.relay.fanoutMessages, b.relay.names = 128, 6, 64, 4
	b.reconnect.users, b.reconnect.rooms, b.reconnect.rate, b.reconnect.within = 10, 2, 200, 100*time.Millisecond
	return b
}

// check requires the tables to be complete and to contain the rows.
func check(t *testing.T, found findings, tables []string, rows ...string) {
	var names []string
	for _, table := range found.tables {
		names = append(names, table.name)
		var origin strings.Builder
		table.markdown(&origin, "Origin.")
		require.NotContains(t, origin.String(), "NaN", table.name)
		require.NotContains(t, origin.String(), "–", table.name)
		require.NotContains(t, origin.String(), "Left out: "+hubName, table.name)
		for _, row := range table.rows {
			require.Len(t, row, len(table.head), table.name)
		}
		for _, want := range rows {
			require.True(t, slices.ContainsFunc(table.rows, func(row []string) bool { return row[0] == want }), "%s has no %s", table.name, want)
		}
	}
	require.Equal(t, tables, names)
	for _, c := range found.charts {
		require.NoError(t, c.drawTo(t.TempDir()))
	}
}

func TestWriterSection(t *testing.T) {
	b := tiny(t, chatName)
	found, err := b.runWriter()
	require.NoError(t, err)
	check(t, found, []string{"writer-TCP-64", "writer-TCP-1024", "writer-TLS-64", "writer-TLS-1024"},
		"sendq, unbounded", "gws WriteAsync", "the limit: one goroutine, no lock")
}

func TestRoundtripSection(t *testing.T) {
	found, err := tiny(t, chatName).runRoundtrip()
	require.NoError(t, err)
	check(t, found, []string{"roundtrip"}, "sendq Writer.Write", "conn.Write")
}

func TestFanoutSection(t *testing.T) {
	found, err := tiny(t, chatName, hubName).runFanout()
	require.NoError(t, err)
	check(t, found, []string{"fanout-5", "fanout"}, chatName, hubName)
}

// Each server understands its protocol and sends the expected number of bytes.
func TestEachService(t *testing.T) {
	b := tiny(t)
	for _, s := range b.services {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.missing != "" {
				missing.Skip(t, s.missing)
			}
			require.NotEmpty(t, s.version)
			figures := make(fanoutFigures)
			require.NoError(t, b.fanOut(s, 5, figures))
			for _, publishers := range b.fanout.publishers {
				for _, inFlight := range b.fanout.inFlight {
					require.Len(t, figures[fanoutCase{5, publishers, inFlight}][s.name].rate, 1)
				}
			}
		})
	}
}

func TestStalledSection(t *testing.T) {
	found, err := tiny(t, chatName, hubName).runStalled()
	require.NoError(t, err)
	check(t, found, []string{"stalled"}, chatName, hubName)
	require.Equal(t, "got everything later", found.tables[0].rows[2][6])
}

func TestIdleSection(t *testing.T) {
	b := tiny(t, chatName, hubName)
	found, err := b.runIdle()
	require.NoError(t, err)
	check(t, found, []string{"idle-writer", "idle", "idle-many"})

	b.idle.each = 3
	found, err = b.idleMany()
	require.NoError(t, err)
	require.Equal(t, []string{"servers", "2"}, found.tables[0].rows[0])
}

// A rival that fails is named in a note. A failure of sendq is an error.
func TestOmissions(t *testing.T) {
	b := &bench{services: []service{{name: chatName}, {name: "Redis", missing: "redis-server is not installed"}}}
	require.Len(t, b.available(), 1)
	require.Contains(t, b.serviceNotes(), "Left out: Redis (redis-server is not installed).")
	var omissions omissions
	require.NoError(t, omissions.record(b.services[1], os.ErrClosed, "with %d members", 5))
	require.Equal(t, "Left out: Redis with 5 members: file already closed.", omissions[0])
	require.ErrorIs(t, omissions.record(b.services[0], os.ErrClosed, "here"), os.ErrClosed)
}

func TestChildIsEnded(t *testing.T) {
	hub, err := startChild(self("hub"))
	require.NoError(t, err)
	_, err = cpuTime(hub.pid())
	require.NoError(t, err)
	rss, err := resident(hub.pid(), "VmRSS")
	require.NoError(t, err)
	require.Greater(t, rss, 1e6)
	require.NoError(t, resetPeak(hub.pid()))
	hub.stop()
	_, err = resident(hub.pid(), "VmRSS")
	require.Error(t, err)

	_, err = startChild(self("nonsense"))
	require.ErrorContains(t, err, "no such server: \"nonsense\"")
}

func TestRelaySection(t *testing.T) {
	found, err := tiny(t, chatName).runRelay()
	require.NoError(t, err)
	check(t, found, []string{"relay-direct", "relay-fanout", "relay-names"})
}

func TestReconnectSection(t *testing.T) {
	found, err := tiny(t, chatName).runReconnect()
	require.NoError(t, err)
	check(t, found, []string{"reconnect"}, "Broker.Resume", "Register and Room.JoinReplay")
	require.Equal(t, []string{"0", "0"}, found.tables[0].rows[0][9:])
}
