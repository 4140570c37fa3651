//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// payload is the published message.
var payload = strings.Repeat("x", 64)

// A fanoutCase is one combination of parameters in section fanout.
type fanoutCase struct{ members, publishers, inFlight int }

// A fanoutFigure holds the measurements of a service in one case.
type fanoutFigure struct {
	rate, cpu, peak, p50, p99 figure
}

// A fanoutSample is the measurement of one round.
type fanoutSample struct {
	result
	cpu  float64 // CPU time of the server in ns per delivery
	peak float64 // peak memory of the server in bytes
}

func (f *fanoutFigure) add(s fanoutSample) {
	f.rate = append(f.rate, s.rate())
	f.cpu = append(f.cpu, s.cpu)
	f.peak = append(f.peak, s.peak)
	f.p50 = append(f.p50, s.p50)
	f.p99 = append(f.p99, s.p99)
}

// fanoutFigures are the measurements by case and by name of the service.
type fanoutFigures map[fanoutCase]map[string]*fanoutFigure

func (f fanoutFigures) of(c fanoutCase, service string) *fanoutFigure {
	if f[c] == nil {
		f[c] = make(map[string]*fanoutFigure)
	}
	if f[c][service] == nil {
		f[c][service] = new(fanoutFigure)
	}
	return f[c][service]
}

// runFanout measures servers from outside: a few clients publish, many receive.
func (b *bench) runFanout() (findings, error) {
	figures := make(fanoutFigures)
	var omissions omissions
	for round := range b.rounds {
		for _, members := range b.fanout.members {
			for _, s := range b.available() {
				b.progress("fanout, round %d of %d: %d members of %s", round+1, b.rounds, members, s.name)
				err := b.fanOut(s, members, figures)
				if err := omissions.record(s, err, "with %d members", members); err != nil {
					return findings{}, err
				}
			}
		}
	}
	return b.fanoutFindings(figures, omissions), nil
}

// fanOut measures all cases of one service with a number of members.
func (b *bench) fanOut(s service, members int, figures fanoutFigures) error {
	server, err := s.start(members)
	if err != nil {
		return err
	}
	defer server.stop()
	clients, err := newClients(server.addr, s.protocol, payload, members, 0)
	if err != nil {
		return err
	}
	defer clients.close()
	for _, publishers := range b.fanout.publishers {
		for _, inFlight := range b.fanout.inFlight {
			c := fanoutCase{members, publishers, inFlight}
			sample, err := b.measureFanout(server, clients, c)
			if err != nil {
				return fmt.Errorf("%s, %d in flight: %w", plural(publishers, "publisher"), inFlight, err)
			}
			figures.of(c, s.name).add(sample)
		}
	}
	return clients.requireSilence()
}

// measureFanout measures one case, after a warm-up of a tenth of the time. If the warm-up takes
// the whole time, because a single window is so slow, it is the measurement.
func (b *bench) measureFanout(server *child, clients *clients, c fanoutCase) (fanoutSample, error) {
	sample, err := fanOutFor(server, clients, c, b.fanout.time/10)
	if err != nil || sample.elapsed >= b.fanout.time {
		return sample, err
	}
	return fanOutFor(server, clients, c, b.fanout.time)
}

// fanOutFor sends windows for at least d.
func fanOutFor(server *child, clients *clients, c fanoutCase, d time.Duration) (sample fanoutSample, err error) {
	if err := resetPeak(server.pid()); err != nil {
		return sample, err
	}
	before, err := cpuTime(server.pid())
	if err != nil {
		return sample, err
	}
	sample.result, err = clients.run(c.inFlight, c.publishers, func(_ int, elapsed time.Duration) bool { return elapsed >= d })
	if err != nil {
		return sample, err
	}
	after, err := cpuTime(server.pid())
	if err != nil {
		return sample, err
	}
	sample.cpu = float64(after-before) / sample.deliveries
	sample.peak, err = resident(server.pid(), "VmHWM")
	return sample, err
}

// fanoutFindings returns a table for each number of members, and a summary.
func (b *bench) fanoutFindings(figures fanoutFigures, omissions omissions) (found findings) {
	for _, members := range b.fanout.members {
		t := table{
			name:  fmt.Sprintf("fanout-%d", members),
			title: fmt.Sprintf("Fan-out of 64-byte messages to %s members", thousands(int64(members))),
			head:  []string{"", "publishers", "in flight", "deliveries/s", "server CPU, ns/delivery", "peak memory", "p50", "p99"},
			notes: append(b.fanoutNotes(), omissions...),
		}
		for _, publishers := range b.fanout.publishers {
			for _, inFlight := range b.fanout.inFlight {
				c := fanoutCase{members, publishers, inFlight}
				base := figures.of(c, chatName)
				for _, s := range b.available() {
					f := figures.of(c, s.name)
					t.row(s.name, fmt.Sprint(publishers), fmt.Sprint(inFlight), f.rate.against(base.rate, count),
						f.cpu.against(base.cpu, significant), f.peak.against(base.peak, memory),
						f.p50.against(base.p50, span), f.p99.against(base.p99, span))
				}
			}
		}
		found.tables = append(found.tables, t)
	}
	summary := b.fanoutSummary(figures)
	summary.notes = append(slices.DeleteFunc(b.fanoutNotes(), func(note string) bool { return note == latencyNote }), omissions...)
	found.tables = append(found.tables, summary)
	found.charts = append(found.charts, b.fanoutChart(figures))
	found.goals = fanoutGoals(figures)
	return found
}

func fanoutGoals(figures fanoutFigures) []goal {
	many, one := fanoutCase{members: 1000, publishers: 1, inFlight: 256}, fanoutCase{members: 1000, publishers: 1, inFlight: 1}
	chat := figures.of(many, chatName)
	const what = "fan-out to 1,000 members, 256 in flight: "
	return []goal{
		atLeast(what+"rate beside Redis", 3, chat.rate, figures.of(many, redisName).rate),
		atLeast(what+"rate beside NATS", 4, chat.rate, figures.of(many, natsName).rate),
		atLeast(what+"rate beside NATS (installed)", 4, chat.rate, figures.of(many, systemNATSName).rate),
		atLeast(what+"rate beside a hub of channels", 10, chat.rate, figures.of(many, hubName).rate),
		atMost(what+"CPU for a delivery beside Redis", 1, chat.cpu, figures.of(many, redisName).cpu),
		atLeast("fan-out to 1,000 members, 1 in flight: rate beside Redis", 1,
			figures.of(one, chatName).rate, figures.of(one, redisName).rate),
	}
}

// summaryMembers returns the number of members for the summary and the plot.
func (b *bench) summaryMembers() int {
	members := b.fanout.members
	return members[len(members)/2]
}

func (b *bench) fanoutSummary(figures fanoutFigures) table {
	members := b.summaryMembers()
	t := table{name: "fanout", title: fmt.Sprintf("Deliveries per second of one publisher's 64-byte messages to %s members", thousands(int64(members))),
		head: []string{""}}
	for _, inFlight := range b.fanout.inFlight {
		t.head = append(t.head, fmt.Sprintf("%d in flight", inFlight))
	}
	t.head = append(t.head, "server CPU, ns/delivery")
	for _, s := range b.available() {
		row := []string{s.name}
		var last fanoutCase
		for _, inFlight := range b.fanout.inFlight {
			last = fanoutCase{members, b.fanout.publishers[0], inFlight}
			row = append(row, figures.of(last, s.name).rate.against(figures.of(last, chatName).rate, count))
		}
		row = append(row, figures.of(last, s.name).cpu.against(figures.of(last, chatName).cpu, significant))
		t.row(row...)
	}
	return t
}

func (b *bench) fanoutChart(figures fanoutFigures) chart {
	members := b.summaryMembers()
	c := chart{file: "fanout.svg", title: fmt.Sprintf("Fan-out to %s members", thousands(int64(members))),
		x: "messages in flight", y: "million deliveries/s", lines: true, log: true}
	for _, inFlight := range b.fanout.inFlight {
		c.at = append(c.at, fmt.Sprint(inFlight))
	}
	for _, s := range b.available() {
		var values []float64
		for _, inFlight := range b.fanout.inFlight {
			values = append(values, median(figures.of(fanoutCase{members, b.fanout.publishers[0], inFlight}, s.name).rate)/1e6)
		}
		c.series = append(c.series, series{s.name, values})
	}
	return c
}

// latencyNote explains the latency columns.
const latencyNote = "p50 and p99: from sending a message until the last member has it."

func (b *bench) fanoutNotes() []string {
	return append([]string{
		"The messages in flight are sent together, one write per publisher. The next ones follow once every member has all of them.",
		latencyNote,
		"CPU time of the server process only, user and kernel.",
		"The members are read by one epoll loop per core, the same for all services, on the same machine as the server.",
	}, b.serviceNotes()...)
}
