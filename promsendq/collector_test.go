package promsendq_test

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/promsendq"
)

func TestLint(t *testing.T) {
	for name, c := range map[string]prometheus.Collector{
		"Broker": promsendq.NewBrokerCollector(sendq.NewBroker(nil)),
		"Tally":  promsendq.NewTallyCollector(new(sendq.Tally)),
	} {
		t.Run(name, func(t *testing.T) {
			problems, err := testutil.CollectAndLint(c)
			require.NoError(t, err)
			require.Empty(t, problems)
		})
	}
}

// A name that waits for its peer, and what is kept for it.
func TestAwayCollector(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
	defer b.CloseNow()
	w := sendq.NewWriter(conn{}, &sendq.WriterOptions{Keep: 1 << 10})
	require.NoError(t, b.Register("alice", w))
	require.NoError(t, b.Send("alice", []byte("four")))
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.Fail(io.EOF))
	series := gather(t, promsendq.NewBrokerCollector(b))
	require.EqualValues(t, 1, series["sendq_names_away"])
	require.EqualValues(t, 4, series["sendq_kept_bytes"])
}

// The metrics after known traffic.
func TestBrokerCollector(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	defer b.CloseNow()
	stuck := &sendq.WriterOptions{MaxPending: 3 * (64 + 4), Overflow: sendq.DropNewest}
	register := func(name string, conn net.Conn, opts *sendq.WriterOptions) *sendq.Writer {
		w := sendq.NewWriter(conn, opts)
		require.NoError(t, b.Register(name, w))
		return w
	}
	alice := register("alice", conn{}, nil)
	register("bob", stalled(t), stuck)
	for _, name := range []string{"alice", "bob"} {
		require.NoError(t, b.Room("room").Join(name))
	}
	for range 4 {
		b.Room("room").Publish([]byte("four")) // bob drops the last one
		require.NoError(t, alice.Flush(t.Context()))
	}
	register("bob", stalled(t), stuck) // takes three over
	register("carol", stalled(t), nil)
	require.NoError(t, b.Send("carol", []byte("fifth")))
	carol, _ := b.Lookup("carol")
	require.NoError(t, carol.CloseNow())
	require.Equal(t, 1, b.BroadcastFrom("bob", []byte("bye")))
	require.NoError(t, alice.Close())

	c := promsendq.NewBrokerCollector(b)
	series := gather(t, c)
	require.EqualValues(t, 5, series["sendq_fan_out_recipients_count"])
	require.EqualValues(t, 4*2+1, series["sendq_fan_out_recipients_sum"])
	require.EqualValues(t, 1, series[`sendq_fan_out_recipients_bucket{le="1"}`])
	require.EqualValues(t, 5, series[`sendq_fan_out_recipients_bucket{le="2"}`])
	require.EqualValues(t, 5, series[`sendq_fan_out_recipients_bucket{le="1e+06"}`])

	// The number of writes depends on the flusher, and ages on the clock.
	names := slices.DeleteFunc(metricsOf(c), func(name string) bool {
		return slices.Contains([]string{"sendq_fan_out_recipients", "sendq_connection_writes_total", "sendq_oldest_pending_seconds"}, name)
	})
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(`
# HELP sendq_accepted_bytes_total Total bytes of the messages accepted by Writers.
# TYPE sendq_accepted_bytes_total counter
sendq_accepted_bytes_total 52
# HELP sendq_accepted_messages_total Total number of messages accepted by Writers. A message to several recipients counts once for each, and messages dropped at MaxPending are included.
# TYPE sendq_accepted_messages_total counter
sendq_accepted_messages_total 13
# HELP sendq_bytes_total Total bytes of the accepted messages that are no longer pending, by outcome: written, dropped, or undelivered.
# TYPE sendq_bytes_total counter
sendq_bytes_total{outcome="dropped"} 4
sendq_bytes_total{outcome="undelivered"} 17
sendq_bytes_total{outcome="written"} 19
# HELP sendq_kept_bytes Bytes of the written messages that are kept until the peer acknowledges them.
# TYPE sendq_kept_bytes gauge
sendq_kept_bytes 0
# HELP sendq_messages_total Total number of accepted messages that are no longer pending, by outcome: written (the connection took every byte), dropped (the Writer was at MaxPending), and undelivered (the Writer ended first).
# TYPE sendq_messages_total counter
sendq_messages_total{outcome="dropped"} 1
sendq_messages_total{outcome="undelivered"} 4
sendq_messages_total{outcome="written"} 5
# HELP sendq_names Number of names in use on this Broker.
# TYPE sendq_names gauge
sendq_names 1
# HELP sendq_names_away Number of names on this Broker that wait for their peer to come back.
# TYPE sendq_names_away gauge
sendq_names_away 0
# HELP sendq_peak_pending_bytes Highest number of bytes that one Writer has had pending, including Writers that have ended. Never decreases.
# TYPE sendq_peak_pending_bytes gauge
sendq_peak_pending_bytes 12
# HELP sendq_pending_bytes Bytes of the accepted messages that are queued or being written.
# TYPE sendq_pending_bytes gauge
sendq_pending_bytes 12
# HELP sendq_pending_messages Number of accepted messages that are queued or being written.
# TYPE sendq_pending_messages gauge
sendq_pending_messages 3
# HELP sendq_rooms Number of rooms in use on this Broker.
# TYPE sendq_rooms gauge
sendq_rooms 1
# HELP sendq_undelivered_bytes_total Total bytes of the messages that were pending when their Writer ended, by the cause of its end.
# TYPE sendq_undelivered_bytes_total counter
sendq_undelivered_bytes_total{cause="closed"} 5
sendq_undelivered_bytes_total{cause="delivered"} 0
sendq_undelivered_bytes_total{cause="expired"} 0
sendq_undelivered_bytes_total{cause="failed"} 0
sendq_undelivered_bytes_total{cause="slow_consumer"} 0
sendq_undelivered_bytes_total{cause="taken_over"} 12
# HELP sendq_undelivered_messages_total Total number of messages that were pending when their Writer ended, by the cause of its end. With the cause taken_over, the new Writer has accepted them again if it was alive.
# TYPE sendq_undelivered_messages_total counter
sendq_undelivered_messages_total{cause="closed"} 1
sendq_undelivered_messages_total{cause="delivered"} 0
sendq_undelivered_messages_total{cause="expired"} 0
sendq_undelivered_messages_total{cause="failed"} 0
sendq_undelivered_messages_total{cause="slow_consumer"} 0
sendq_undelivered_messages_total{cause="taken_over"} 3
# HELP sendq_writer_ends_total Total number of Writers that have ended, by cause: delivered (Close or Shutdown delivered everything), closed (CloseNow, or the connection was closed), expired (CloseTimeout or the context of Shutdown ran out), slow_consumer (a limit was reached), taken_over, and failed (any other error, most often of the connection).
# TYPE sendq_writer_ends_total counter
sendq_writer_ends_total{cause="closed"} 1
sendq_writer_ends_total{cause="delivered"} 1
sendq_writer_ends_total{cause="expired"} 0
sendq_writer_ends_total{cause="failed"} 0
sendq_writer_ends_total{cause="slow_consumer"} 0
sendq_writer_ends_total{cause="taken_over"} 1
# HELP sendq_writers Number of Writers that have not ended.
# TYPE sendq_writers gauge
sendq_writers 1
`), names...))
}

// The age is that of the oldest message, in seconds.
func TestOldestPendingSeconds(t *testing.T) {
	var tally sendq.Tally
	w := sendq.NewWriter(stalled(t), nil)
	defer w.CloseNow()
	tally.Add(w)
	w.WriteString("old")
	w.Stats() // samples the age, which counts from here on
	time.Sleep(20 * time.Millisecond)
	age := gather(t, promsendq.NewTallyCollector(&tally))["sendq_oldest_pending_seconds"]
	require.GreaterOrEqual(t, age, 0.02)
	require.Less(t, age, 60.0)
}

// Two Brokers in one registry, each with its own label.
func TestSeveralBrokers(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	for _, name := range []string{"chat", "game"} {
		prometheus.WrapRegistererWith(prometheus.Labels{"broker": name}, r).
			MustRegister(promsendq.NewBrokerCollector(sendq.NewBroker(nil)))
	}
	problems, err := testutil.GatherAndLint(r)
	require.NoError(t, err)
	require.Empty(t, problems)
	n, err := testutil.GatherAndCount(r, "sendq_names")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

// A program without a Relay does not compile the client of NATS.
func TestNoClientOfNATS(t *testing.T) {
	packages, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	require.NotContains(t, string(packages), "nats-io")
}

// While Writers are registered, send and end, every scrape adds up and no counter decreases.
func TestScrapeUnderLoad(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	room := b.Room("room")
	var over atomic.Bool
	var load sync.WaitGroup
	for worker := range 4 {
		load.Go(func() {
			for i := 0; !over.Load(); i++ {
				name := fmt.Sprint((worker + i) % 50) // sometimes a name of another worker
				w := sendq.NewWriter(conn{}, &sendq.WriterOptions{MaxPending: 4000, Overflow: sendq.DropOldest})
				assert.NoError(t, b.Register(name, w))
				_ = room.Join(name)
				for range 5 {
					room.PublishFrom(name, make([]byte, 1+i%500))
					_ = b.Send(name, []byte("direct"))
				}
				if i%3 == 0 {
					w.CloseNow()
				}
			}
		})
	}
	c := promsendq.NewBrokerCollector(b)
	var last map[string]float64
	for range 100 {
		now := gather(t, c)
		for series, v := range now {
			if strings.Contains(series, "_total") || strings.Contains(series, "_recipients") {
				require.GreaterOrEqual(t, v, last[series], series)
			}
		}
		require.Equal(t, now["sendq_accepted_messages_total"], now["sendq_pending_messages"]+
			now[`sendq_messages_total{outcome="written"}`]+now[`sendq_messages_total{outcome="dropped"}`]+
			now[`sendq_messages_total{outcome="undelivered"}`])
		last = now
	}
	over.Store(true)
	load.Wait()
	require.NoError(t, b.Shutdown(t.Context()))
	now := gather(t, c)
	require.Zero(t, now["sendq_writers"])
	require.Zero(t, now["sendq_pending_bytes"])
	require.Positive(t, now[`sendq_writer_ends_total{cause="taken_over"}`])
}

// Senders make progress while 100,000 Writers are scraped.
func TestScrapeStallsNoSender(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	b := sendq.NewBroker(nil)
	writers := registerMany(t, b, n)
	require.NoError(t, b.Room("room").Join("0"))
	c := promsendq.NewBrokerCollector(b)

	var over atomic.Bool
	var senders sync.WaitGroup
	sent := map[string]*atomic.Int64{"Write": {}, "Send": {}, "Publish": {}, "Register": {}}
	for way, send := range map[string]func(i int) error{
		"Write":   func(i int) error { _, err := writers[i%n].WriteString("hi"); return err },
		"Send":    func(i int) error { return b.Send(fmt.Sprint(i%n), []byte("hi")) },
		"Publish": func(int) error { b.Room("room").Publish([]byte("hi")); return nil },
		"Register": func(i int) error {
			return b.Register(fmt.Sprint("late", i), sendq.NewWriter(conn{}, nil))
		},
	} {
		senders.Go(func() {
			for i := 0; !over.Load(); i++ {
				assert.NoError(t, send(i))
				sent[way].Add(1)
				time.Sleep(10 * time.Microsecond)
			}
		})
	}
	// Scrape until each sender has sent 100 messages during scrapes.
	during := make(map[string]int64)
	for isEnough := false; !isEnough; {
		before := make(map[string]int64)
		for way, n := range sent {
			before[way] = n.Load()
		}
		require.GreaterOrEqual(t, gather(t, c)["sendq_writers"], float64(n))
		isEnough = true
		for way, n := range sent {
			during[way] += n.Load() - before[way]
			isEnough = isEnough && during[way] >= 100
		}
	}
	over.Store(true)
	senders.Wait()
}

func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n, " Writers"), func(b *testing.B) {
			broker := sendq.NewBroker(nil)
			registerMany(b, broker, n)
			r := prometheus.NewRegistry()
			r.MustRegister(promsendq.NewBrokerCollector(broker))
			b.ReportAllocs()
			for b.Loop() {
				_, err := r.Gather()
				require.NoError(b, err)
			}
		})
	}
}

// registerMany registers n Writers, named by their number. Every hundredth has a message pending.
func registerMany(t testing.TB, b *sendq.Broker, n int) (writers []*sendq.Writer) {
	for i := range n {
		var c net.Conn = conn{}
		if i%100 == 99 {
			c = stalled(t)
		}
		w := sendq.NewWriter(c, nil)
		require.NoError(t, b.Register(fmt.Sprint(i), w))
		if i%100 == 99 {
			w.WriteString("pending")
		}
		writers = append(writers, w)
	}
	return writers
}

// gather returns the values of a collector's series, keyed by name and label.
func gather(t testing.TB, c prometheus.Collector) map[string]float64 {
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	families, err := r.Gather()
	require.NoError(t, err)
	series := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			if label := m.GetLabel(); len(label) > 0 { // no series has two
				name = fmt.Sprintf("%s{%s=%q}", name, label[0].GetName(), label[0].GetValue())
			}
			if h := m.GetHistogram(); h != nil {
				series[name+"_count"], series[name+"_sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.GetBucket() {
					series[fmt.Sprintf("%s_bucket{le=\"%v\"}", name, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			} else {
				series[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // one of them is 0
			}
		}
	}
	return series
}

// A conn accepts every write at once.
type conn struct{ net.Conn }

func (conn) LocalAddr() net.Addr         { return nil }
func (conn) Write(p []byte) (int, error) { return len(p), nil }
func (conn) Close() error                { return nil }

// stalled returns a connection on which every write blocks.
func stalled(t testing.TB) net.Conn {
	c, _ := net.Pipe()
	t.Cleanup(func() { c.Close() })
	return c
}
