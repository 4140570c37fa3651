//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// A writerCase is one combination of parameters in section writer.
type writerCase struct {
	transport     string
	size, senders int
}

var transports = []string{"TCP", "TLS"}

// runWriter measures the time to send messages over one connection at full speed, until the
// peer has all of them.
func (b *bench) runWriter() (findings, error) {
	rivals := writerRivals()
	figures := make(map[writerCase][]figure) // ns for a message, by rival
	messages := make(map[writerCase][]int)   // in a run, by rival
	for round := range b.rounds {
		for _, c := range b.writerCases() {
			b.progress("writer, round %d of %d: %s of %d bytes over %s", round+1, b.rounds, plural(c.senders, "sender"), c.size, c.transport)
			if round == 0 {
				figures[c], messages[c] = make([]figure, len(rivals)), make([]int, len(rivals))
			}
			for i, rival := range rivals {
				if round == 0 { // warm up, and choose the number of messages to take b.writer.time
					const some = 2000
					ns, err := rival.measure(c, min(some, b.writer.bytes/c.size))
					if err != nil {
						return findings{}, fmt.Errorf("%s: %w", rival.name, err)
					}
					messages[c][i] = min(int(float64(b.writer.time)/ns), b.writer.bytes/c.size)
				}
				ns, err := rival.measure(c, messages[c][i])
				if err != nil {
					return findings{}, fmt.Errorf("%s: %w", rival.name, err)
				}
				figures[c][i] = append(figures[c][i], ns)
			}
		}
	}
	return b.writerFindings(rivals, figures), nil
}

func (b *bench) writerCases() (cases []writerCase) {
	for _, transport := range transports {
		for _, size := range b.writer.sizes {
			for _, senders := range b.writer.senders {
				cases = append(cases, writerCase{transport, size, senders})
			}
		}
	}
	return cases
}

// measure sends at least n messages and returns the time per message in ns.
func (r *writerRival) measure(c writerCase, n int) (ns float64, err error) {
	conn, peer, err := connPair()
	if err != nil {
		return 0, err
	}
	defer peer.Close()
	if c.transport == "TLS" {
		if conn, peer, err = tlsPair(conn, peer); err != nil {
			conn.Close()
			return 0, err
		}
	}
	s, err := r.start(conn)
	if err != nil {
		conn.Close()
		return 0, err
	}
	defer s.close()
	if r.handshake {
		if err := readUpgradeResponse(peer); err != nil {
			return 0, err
		}
	}
	senders := c.senders
	if r.alone {
		senders = 1
	}
	each := (n + senders - 1) / senders
	n = each * senders

	runtime.GC() // collect the garbage of earlier measurements
	arrived := make(chan error, 1)
	go func() { arrived <- discardExactly(peer, n*(c.size+r.overhead(c.size))) }()
	start := time.Now()
	if err := sendAll(s, senders, each, c.size); err != nil {
		return 0, err
	}
	if err := <-arrived; err != nil {
		return 0, err
	}
	elapsed := time.Since(start)
	s.close()
	if extra, _ := io.Copy(io.Discard, peer); extra > 0 && !r.handshake { // gws may send a close frame
		return 0, fmt.Errorf("%d bytes too many arrived", extra)
	}
	return float64(elapsed) / float64(n), nil
}

// sendAll sends messages from a number of goroutines.
func sendAll(s sender, senders, each, size int) error {
	message := make([]byte, size)
	failed := make(chan error, senders)
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for range each {
				if err := s.send(message); err != nil {
					failed <- fmt.Errorf("send: %w", err)
					return
				}
			}
		})
	}
	sending.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return s.end()
	}
}

// discardExactly reads n bytes, in large pieces.
func discardExactly(peer io.Reader, n int) error {
	buf := make([]byte, 256<<10)
	for n > 0 {
		got, err := peer.Read(buf)
		n -= got
		if err != nil && n > 0 {
			return fmt.Errorf("%d bytes did not arrive: %w", n, err)
		}
	}
	if n < 0 {
		return fmt.Errorf("%d bytes too many arrived", -n)
	}
	return nil
}

// readUpgradeResponse reads the response to an HTTP upgrade. No data may follow it.
func readUpgradeResponse(peer net.Conn) error {
	r := bufio.NewReader(peer)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return fmt.Errorf("read the response to the upgrade: %w", err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols || r.Buffered() > 0 {
		return fmt.Errorf("the response to the upgrade is %s, followed by %d bytes", response.Status, r.Buffered())
	}
	return nil
}

func (b *bench) writerFindings(rivals []writerRival, figures map[writerCase][]figure) (found findings) {
	for _, transport := range transports {
		for _, size := range b.writer.sizes {
			t := table{
				name:  fmt.Sprintf("writer-%s-%d", transport, size),
				title: fmt.Sprintf("Messages of %s bytes over one %s connection", thousands(int64(size)), transport),
				head:  []string{""},
				notes: b.writerNotes(),
			}
			for _, senders := range b.writer.senders {
				t.head = append(t.head, plural(senders, "sender")+", ns/message", "GB/s")
			}
			for i, rival := range rivals {
				row := []string{rival.name}
				for _, senders := range b.writer.senders {
					f := figures[writerCase{transport, size, senders}]
					row = append(row, f[i].against(f[0], significant), significant(float64(size)/median(f[i])))
				}
				t.row(row...)
			}
			found.tables = append(found.tables, t)
		}
	}
	found.charts = []chart{b.writerChart(rivals, figures)}
	found.goals = writerGoals(rivals, figures[writerCase{"TCP", 64, 1}])
	return found
}

// writerGoals returns the goals for messages of 64 bytes. ns is the time per message by rival.
func writerGoals(rivals []writerRival, ns []figure) []goal {
	if ns == nil {
		return nil
	}
	of := make(map[string]figure)
	for i, rival := range rivals {
		of[rival.name] = ns[i]
	}
	const what = "one Writer, 64-byte messages, "
	return []goal{
		atLeast(what+"1 MiB pending: speed beside the limit", 0.9, of[limitName], of[boundedName]),
		atLeast(what+"1 MiB pending: speed beside a channel", 100, of[channelName], of[boundedName]),
		atLeast(what+"unbounded: speed beside the limit", 0.6, of[limitName], of[unboundedName]),
	}
}

func (b *bench) writerNotes() []string {
	return []string{
		"Ratios are relative to the first row.",
		"Time from the first call until the peer has the last byte. The peer discards everything in pieces of up to 256 KiB.",
		"Writers without a limit may queue everything. gws and the model of centrifuge's writer do not copy messages; the others do.",
		"gws " + moduleVersion("github.com/lxzan/gws") + ", adding WebSocket frames. The writers of nats.go and centrifuge are small models.",
	}
}

// writerChart plots messages of 64 bytes over TCP.
func (b *bench) writerChart(rivals []writerRival, figures map[writerCase][]figure) chart {
	const size = 64
	c := chart{file: "writer.svg", title: "64-byte messages over one TCP connection", x: "senders", y: "million messages/s"}
	for _, senders := range b.writer.senders {
		c.at = append(c.at, fmt.Sprint(senders))
	}
	for i, rival := range rivals {
		var values []float64
		for _, senders := range b.writer.senders {
			if f := figures[writerCase{"TCP", size, senders}]; f != nil {
				values = append(values, 1e3/median(f[i]))
			}
		}
		c.series = append(c.series, series{rival.name, values})
	}
	return c
}
