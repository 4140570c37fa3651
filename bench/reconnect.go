//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// comebacks are the ways to give users the messages of their absence.
var comebacks = []struct{ name, kind string }{
	{"Broker.Resume", resumeKind},
	{"Register and Room.JoinReplay", replayKind},
}

// A reconnectFigure holds the measurements of one way to come back.
type reconnectFigure struct {
	noticed, served  figure // ns since the connections broke
	p50, p99         figure // ns from a user's dial until it has everything
	cpu              figure // ns of the server, from the break until all are served
	present, away    figure // bytes of the server for a user
	peak             figure // bytes of the server
	missed, repeated figure // messages per user
}

// runReconnect measures how users come back after all of them have lost their connections at once.
// Messages to their rooms go on all the time.
func (b *bench) runReconnect() (findings, error) {
	users, err := allowConnections(b.reconnect.users)
	if err != nil {
		return findings{}, err
	}
	figures := make([]reconnectFigure, len(comebacks))
	for round := range b.rounds {
		for i, way := range comebacks {
			b.progress("reconnect, round %d of %d: %d users with %s", round+1, b.rounds, users, way.name)
			if err := b.comeBack(way.kind, users, &figures[i]); err != nil {
				return findings{}, fmt.Errorf("%s: %w", way.name, err)
			}
		}
	}
	return findings{tables: []table{b.reconnectTable(users, figures)}}, nil
}

// comeBack lets users come back once, and adds the measurement to f.
func (b *bench) comeBack(kind string, users int, f *reconnectFigure) error {
	server, err := startChild(self(fmt.Sprintf("users %s %d", kind, b.replayed())))
	if err != nil {
		return err
	}
	defer server.stop()
	c, err := newCrowd(server, kind, users, b.reconnect.rooms, b.reconnect.rate)
	if err != nil {
		return err
	}
	defer c.close()
	empty, err := c.ask(askMemory)
	if err != nil {
		return err
	}
	if err := c.logIn(); err != nil {
		return err
	}
	if err := c.chat(b.reconnect.within, b.reconnect.within/10); err != nil {
		return err
	}
	present, err := c.ask(askMemory)
	if err != nil {
		return err
	}
	away, err := b.interrupt(c, f)
	if err != nil {
		return err
	}
	missed, repeated, err := c.finish()
	if err != nil {
		return err
	}
	peak, err := resident(server.pid(), "VmHWM")
	f.present = append(f.present, (present-empty)/float64(users))
	f.away = append(f.away, (away-empty)/float64(users))
	f.peak = append(f.peak, peak)
	f.missed = append(f.missed, float64(missed)/float64(users))
	f.repeated = append(f.repeated, float64(repeated)/float64(users))
	return err
}

// interrupt breaks all connections, and waits until all users are back and served. It adds the times
// to f, and returns the memory of the server while all users were absent.
func (b *bench) interrupt(c *crowd, f *reconnectFigure) (away float64, err error) {
	before, err := cpuTime(c.server.pid())
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := c.breakAll(); err != nil {
		return 0, err
	}
	noticed := time.Since(start)
	if away, err = c.ask(askMemory); err != nil {
		return 0, err
	}
	if err := c.comeBack(start.Add(b.reconnect.within)); err != nil {
		return 0, err
	}
	served := time.Since(start)
	after, err := cpuTime(c.server.pid())
	slices.Sort(c.times)
	f.noticed = append(f.noticed, float64(noticed))
	f.served = append(f.served, float64(served))
	f.p50 = append(f.p50, float64(quantile(c.times, 0.50)))
	f.p99 = append(f.p99, float64(quantile(c.times, 0.99)))
	f.cpu = append(f.cpu, float64(after-before))
	return away, err
}

// replayed returns how many messages JoinReplay gives a user: as many as a room gets while the users
// are absent.
func (b *bench) replayed() int { return int(b.reconnect.within.Seconds() * float64(b.reconnect.rate)) }

func (b *bench) reconnectTable(users int, figures []reconnectFigure) table {
	r := b.reconnect
	t := table{
		name: "reconnect",
		title: fmt.Sprintf("%s users of %s lose their connections at once and come back within %v",
			thousands(int64(users)), plural(r.rooms, "room"), r.within),
		head: []string{"", "server has noticed after", "all are served after", "p50 of a user", "p99", "CPU of the server",
			"its memory per user before", "per absent user", "in all, at the highest", "missed per user", "received again per user"},
		notes: []string{
			fmt.Sprintf("As when a proxy in front of the server restarts. Each room gets %d messages of %d bytes per second all the time. ", r.rate, len(payload)) +
				fmt.Sprintf("The connections are reset, and with them the kernel loses the messages of the last %v.", r.within/10),
			"Users come back one after another, at even intervals. p50 and p99: from a user's dial until it has all messages published before that.",
			fmt.Sprintf("With JoinReplay a user gets the last %d messages of its room, as many as it gets in %v.", b.replayed(), r.within),
			"The users check the numbers of all messages. With Resume, one that is missing or comes again would be an error.",
			"Memory per user is heap and stacks after garbage collection; the runtime keeps a part of ended goroutines. The highest is resident memory.",
			"In brackets here, the ratio to Broker.Resume.",
		},
	}
	if users < r.users {
		t.notes = append(t.notes, "More users are not permitted here; "+raiseLimitHint(r.users)+".")
	}
	base := figures[0]
	for i, way := range comebacks {
		f := figures[i]
		t.row(way.name, f.noticed.against(base.noticed, span), f.served.against(base.served, span),
			f.p50.against(base.p50, span), f.p99.against(base.p99, span),
			f.cpu.against(base.cpu, span), f.present.against(base.present, memory), f.away.against(base.away, memory), f.peak.against(base.peak, memory),
			significant(median(f.missed)), significant(median(f.repeated)))
	}
	return t
}
