//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stalledPayload is the message published while some members do not read. It is large enough for
// a backlog beyond the kernel's buffers.
var stalledPayload = strings.Repeat("x", 512)

// stalledTimeout ends the run of a very slow service, after the current window.
const stalledTimeout = 5 * time.Second

// A stalledFigure holds the measurements of a service with a number of stalled members.
type stalledFigure struct {
	rate, p50, p99 figure
	outcomes       outcomes
}

// outcomes counts, over all rounds, what happened to the stalled members.
type outcomes struct{ got, disconnected, lost int }

func (o outcomes) String() string {
	var parts []string
	for _, outcome := range []struct {
		n    int
		what string
	}{{o.got, "got everything later"}, {o.disconnected, "were disconnected"}, {o.lost, "lost messages"}} {
		if outcome.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", outcome.n, outcome.what))
		}
	}
	if len(parts) == 1 { // all
		_, what, _ := strings.Cut(parts[0], " ")
		return what
	}
	return strings.Join(parts, ", ")
}

// runStalled measures how members that never read affect the others.
func (b *bench) runStalled() (findings, error) {
	figures := make(map[string]map[int]*stalledFigure)
	for _, s := range b.available() {
		figures[s.name] = make(map[int]*stalledFigure)
		for _, stalled := range b.stalled.stalled {
			figures[s.name][stalled] = new(stalledFigure)
		}
	}
	var omissions omissions
	for round := range b.rounds {
		for _, stalled := range b.stalled.stalled {
			for _, s := range b.available() {
				b.progress("stalled, round %d of %d: %d stalled of %d members of %s", round+1, b.rounds, stalled, b.stalled.members, s.name)
				err := b.stall(s, stalled, figures[s.name][stalled])
				if err := omissions.record(s, err, "with %d stalled", stalled); err != nil {
					return findings{}, err
				}
			}
		}
	}
	return b.stalledFindings(figures, omissions), nil
}

func (b *bench) stall(s service, stalled int, f *stalledFigure) error {
	server, err := s.start(b.stalled.members)
	if err != nil {
		return err
	}
	defer server.stop()
	clients, err := newClients(server.addr, s.protocol, stalledPayload, b.stalled.members-stalled, stalled)
	if err != nil {
		return err
	}
	defer clients.close()
	windows := func(n int) func(int, time.Duration) bool {
		return func(windows int, elapsed time.Duration) bool { return windows >= n || elapsed >= stalledTimeout }
	}
	warm, err := clients.run(b.stalled.inFlight, 1, windows(max(1, b.stalled.windows/10)))
	if err != nil {
		return err
	}
	r, err := clients.run(b.stalled.inFlight, 1, windows(b.stalled.windows))
	if err != nil {
		return err
	}
	f.rate = append(f.rate, r.rate())
	f.p50 = append(f.p50, r.p50)
	f.p99 = append(f.p99, r.p99)
	due := (1 + warm.messages + r.messages) * clients.frame // 1 was sent by verify
	for _, p := range clients.stalled {
		if err := f.outcomes.observe(p, due); err != nil {
			return err
		}
	}
	return clients.requireSilence()
}

// observe reads the backlog of a stalled member and counts the outcome. The backlog has due bytes
// if nothing is lost.
func (o *outcomes) observe(p *peer, due int) error {
	if err := errors.Join(
		unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20),
		unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}),
	); err != nil {
		return fmt.Errorf("prepare a stalled member for reading: %w", err)
	}
	switch n, err := io.CopyN(io.Discard, p, int64(due)); {
	case err == nil:
		o.got++
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		o.disconnected++
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EAGAIN):
		o.lost++
	default:
		return fmt.Errorf("read the backlog of a stalled member: after %d bytes: %w", n, err)
	}
	return nil
}

func (b *bench) stalledFindings(figures map[string]map[int]*stalledFigure, omissions omissions) findings {
	messages := b.stalled.inFlight * b.stalled.windows
	t := table{
		name: "stalled",
		title: fmt.Sprintf("What the others of %s members notice when some never read",
			thousands(int64(b.stalled.members))),
		head: []string{"", "stalled", "deliveries/s to the others", "of its rate without", "p50", "p99", "the stalled ones"},
		notes: append([]string{
			fmt.Sprintf("One publisher sends %s messages of %d bytes, %d in flight, or fewer if %v have passed.",
				thousands(int64(messages)), len(stalledPayload), b.stalled.inFlight, stalledTimeout),
			"Stalled members have small receive buffers and segments of 1,460 bytes, as on Ethernet.",
			"p50 and p99: from sending a message until the last of the others has it.",
		}, append(b.serviceNotes(), omissions...)...),
	}
	c := chart{file: "stalled.svg", title: "Some members never read", x: "stalled members", y: "million deliveries/s to the others", lines: true}
	for _, stalled := range b.stalled.stalled {
		c.at = append(c.at, fmt.Sprint(stalled))
		base := figures[chatName][stalled]
		for _, s := range b.available() {
			f := figures[s.name][stalled]
			own := significant(median(f.rate) / median(figures[s.name][b.stalled.stalled[0]].rate))
			if len(f.rate) == 0 {
				own = "–"
			}
			t.row(s.name, fmt.Sprint(stalled), f.rate.against(base.rate, count), own,
				f.p50.against(base.p50, span), f.p99.against(base.p99, span), f.outcomes.String())
		}
	}
	for _, s := range b.available() {
		var values []float64
		for _, stalled := range b.stalled.stalled {
			values = append(values, median(figures[s.name][stalled].rate)/1e6)
		}
		c.series = append(c.series, series{s.name, values})
	}
	found := findings{tables: []table{t}, charts: []chart{c}}
	none, some := b.stalled.stalled[0], b.stalled.stalled[len(b.stalled.stalled)-1]
	found.goals = []goal{atLeast(
		fmt.Sprintf("%d of %s members stalled: the others' rate beside that without", some, thousands(int64(b.stalled.members))),
		0.95, figures[chatName][some].rate, figures[chatName][none].rate)}
	return found
}
