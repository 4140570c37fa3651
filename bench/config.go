//go:build linux

package main

import "time"

// A config sets the amount of measurement.
type config struct {
	rounds int

	writer struct {
		sizes, senders []int
		time           time.Duration // of a run
		bytes          int           // maximum in a run, because unbounded writers queue everything
	}
	roundtrip struct {
		blocks, trips int // blocks per round, trips per block
	}
	fanout struct {
		members, inFlight, publishers []int // publishers in ascending order, because none is removed
		time                          time.Duration
	}
	stalled struct {
		members, inFlight, windows int
		stalled                    []int
	}
	idle struct {
		writers, connections int
		many                 int // connections to the chat alone; 0 skips the measurement
		each                 int // maximum of these per server process; 0 means its limit of open files
	}
	relay struct {
		messages, members, fanoutMessages, names int
	}
	reconnect struct {
		users, rooms int
		rate         int           // messages per second to each room
		within       time.Duration // until all users have dialed again
	}
}

func fullConfig() (c config) {
	c.rounds = 3
	c.writer.sizes, c.writer.senders = []int{16, 64, 1024, 16384}, []int{1, 8, 64}
	c.writer.time, c.writer.bytes = 250*time.Millisecond, 256<<20
	c.roundtrip.blocks, c.roundtrip.trips = 100, 500
	c.fanout.members, c.fanout.inFlight, c.fanout.publishers = []int{100, 1000, 5000}, []int{1, 64, 256}, []int{1, 8}
	c.fanout.time = 700 * time.Millisecond
	c.stalled.members, c.stalled.inFlight, c.stalled.windows, c.stalled.stalled = 1000, 64, 25, []int{0, 1, 10}
	c.idle.writers, c.idle.connections, c.idle.many = 10_000, 10_000, 100_000
	c.relay.messages, c.relay.members, c.relay.fanoutMessages, c.relay.names = 500_000, 1000, 6400, 5000
	c.reconnect.users, c.reconnect.rooms, c.reconnect.rate, c.reconnect.within = 10_000, 100, 2, 5*time.Second
	return c
}

func quickConfig() (c config) {
	c.rounds = 3
	c.writer.sizes, c.writer.senders = []int{64, 16384}, []int{1, 64}
	c.writer.time, c.writer.bytes = 50*time.Millisecond, 64<<20
	c.roundtrip.blocks, c.roundtrip.trips = 20, 500
	c.fanout.members, c.fanout.inFlight, c.fanout.publishers = []int{1000}, []int{1, 64, 256}, []int{1}
	c.fanout.time = 300 * time.Millisecond
	c.stalled.members, c.stalled.inFlight, c.stalled.windows, c.stalled.stalled = 100, 64, 15, []int{0, 10}
	c.idle.writers, c.idle.connections = 10_000, 1000
	c.relay.messages, c.relay.members, c.relay.fanoutMessages, c.relay.names = 100_000, 1000, 1280, 1000
	c.reconnect.users, c.reconnect.rooms, c.reconnect.rate, c.reconnect.within = 1000, 10, 5, 2*time.Second
	return c
}
