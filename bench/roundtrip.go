//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/sendq-go/sendq"
)

const roundtripBytes = 64

// runRoundtrip measures a message and its echo, one at a time: the cost of a Writer with
// nothing to coalesce.
func (b *bench) runRoundtrip() (findings, error) {
	direct, err := newEcho()
	if err != nil {
		return findings{}, err
	}
	defer direct.Close()
	queued, err := newEcho()
	if err != nil {
		return findings{}, err
	}
	w := sendq.NewWriter(queued, nil)
	defer w.CloseNow()

	ways := []struct {
		name string
		to   io.Writer
		from io.Reader
	}{{"sendq Writer.Write", w, queued}, {"conn.Write", direct, direct}}
	quantiles := []float64{0.50, 0.99, 0.999}
	figures := make([][3]figure, len(ways)) // by way and quantile
	for round := range b.rounds + 1 {       // the first one is a warm-up
		times := make([][]int64, len(ways))
		for range b.roundtrip.blocks {
			for i, way := range ways {
				if times[i], err = trips(way.to, way.from, b.roundtrip.trips, times[i]); err != nil {
					return findings{}, fmt.Errorf("%s: %w", way.name, err)
				}
			}
		}
		for i := range ways {
			slices.Sort(times[i])
			for j, q := range quantiles {
				if round > 0 {
					figures[i][j] = append(figures[i][j], float64(quantile(times[i], q)))
				}
			}
		}
	}

	t := table{name: "roundtrip", title: "Round trip of 64 bytes over TCP while nothing else is sent",
		head: []string{"", "p50", "p99", "p99.9"},
		notes: []string{fmt.Sprintf("Each round has %s round trips of both, in alternating blocks of %d.",
			thousands(int64(b.roundtrip.blocks*b.roundtrip.trips)), b.roundtrip.trips)}}
	for i, way := range ways {
		row := []string{way.name}
		for j := range quantiles {
			row = append(row, figures[i][j].against(figures[0][j], span))
		}
		t.row(row...)
	}
	return findings{tables: []table{t}, goals: []goal{
		atMost("round trip while idle, p50, beside conn.Write", 1.05, figures[0][0], figures[1][0]),
	}}, nil
}

// trips makes n round trips and appends the time of each to times.
func trips(to io.Writer, from io.Reader, n int, times []int64) ([]int64, error) {
	var message [roundtripBytes]byte
	for range n {
		start := time.Now()
		if _, err := to.Write(message[:]); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(from, message[:]); err != nil {
			return nil, err
		}
		times = append(times, int64(time.Since(start)))
	}
	return times, nil
}

// newEcho returns a connection to a peer that echoes.
func newEcho() (net.Conn, error) {
	conn, peer, err := connPair()
	if err != nil {
		return nil, err
	}
	go func() {
		defer peer.Close()
		var buf [roundtripBytes]byte
		for {
			n, err := peer.Read(buf[:])
			if err != nil {
				return
			}
			if _, err := peer.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	return conn, nil
}

// connPair returns both ends of a TCP connection over the loopback interface.
func connPair() (conn, peer net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if conn, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if peer, err = l.Accept(); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, peer, nil
}
