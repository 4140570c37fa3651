package sendq_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A source pauses while its consumer is slow.
func ExampleWriterOptions_onPressure() {
	conn, peer := net.Pipe()
	changes := make(chan bool)
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		HighMark:   1000,
		OnPressure: func(_ *sendq.Writer, slow bool) { changes <- slow },
	})
	defer w.CloseNow()

	w.Write(make([]byte, 1000))
	fmt.Println("slow:", <-changes)
	peer.Read(make([]byte, 1000))
	fmt.Println("slow:", <-changes)
	// Output:
	// slow: true
	// slow: false
}

func TestPressure(t *testing.T) {
	t.Run("between the marks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var told []bool
			w, peer := overPipe(t, &sendq.WriterOptions{MessageFramed: true, HighMark: 500, LowMark: 200,
				OnPressure: func(_ *sendq.Writer, slow bool) { told = append(told, slow) }})
			write := func() {
				require.NoError(t, second(w.Write(make([]byte, 36)))) // counts as 100
				synctest.Wait()
			}
			for range 5 {
				write()
			}
			require.Empty(t, told)
			write()
			write()
			require.Equal(t, []bool{true}, told)
			for range 4 {
				take(t, peer, 36)
			}
			synctest.Wait()
			require.Equal(t, []bool{true}, told, "300 are pending")
			write()
			take(t, peer, 36)
			take(t, peer, 36)
			synctest.Wait()
			require.Equal(t, []bool{true, false}, told)
			for range 4 {
				write()
			}
			require.Equal(t, []bool{true, false, true}, told)
			w.CloseNow()
			synctest.Wait()
			require.Len(t, told, 3, "none at the end")
		})
	})

	t.Run("a slow call gets the last state", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var told []bool
			w, peer := overPipe(t, &sendq.WriterOptions{HighMark: 500, OnPressure: func(_ *sendq.Writer, slow bool) {
				told = append(told, slow)
				time.Sleep(time.Hour)
			}})
			for range 10 {
				w.Write(make([]byte, 1000))
				synctest.Wait()
				take(t, peer, 1000)
				synctest.Wait()
			}
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			require.Equal(t, []bool{true, false}, told)
		})
	})

	t.Run("dropped messages are no pressure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var told []bool
			w, _ := overPipe(t, &sendq.WriterOptions{HighMark: 500, MaxAge: time.Minute, Expire: true,
				OnPressure: func(_ *sendq.Writer, slow bool) { told = append(told, slow) }})
			w.WriteString("0")
			synctest.Wait() // it is being written
			for range 10 {
				w.Write(make([]byte, 100))
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			require.Equal(t, []bool{true, false}, told)
		})
	})

	t.Run("senseless marks", func(t *testing.T) {
		conn, _ := net.Pipe()
		require.Panics(t, func() { sendq.NewWriter(conn, &sendq.WriterOptions{HighMark: 1, LowMark: 2}) })
		require.Panics(t, func() { sendq.NewWriter(conn, &sendq.WriterOptions{HighMark: -1}) })
	})
}

// The marks hold for all ways in which messages come: in place, with every limit, by a fan-out, by
// a takeover, and by a replay.
func TestPressureHowever(t *testing.T) {
	broker := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, ReplayMessages: 10})
	for name, send := range map[string]func(w *sendq.Writer){
		"Write":  func(w *sendq.Writer) { w.Write(make([]byte, 100)) },
		"Send":   func(w *sendq.Writer) { w.Send(make([]byte, 100)) },
		"SendTo": func(*sendq.Writer) { broker.SendTo([]string{"name"}, make([]byte, 100)) },
		"Batch": func(*sendq.Writer) {
			batch := broker.NewBatch()
			batch.Broadcast(make([]byte, 100))
			batch.Broadcast(make([]byte, 100))
			batch.Flush()
		},
		"WriteUrgent": func(w *sendq.Writer) { w.WriteUrgent(make([]byte, 100)) },
		"WriteParts":  func(w *sendq.Writer) { w.WriteParts(make([]byte, 50), make([]byte, 50)) },
	} {
		for _, limited := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " limited ", limited), func(t *testing.T) {
				told := make(chan bool, 10)
				opts := &sendq.WriterOptions{HighMark: 1000, LowMark: 1,
					OnPressure: func(_ *sendq.Writer, slow bool) { told <- slow }}
				if limited {
					opts.MaxPending, opts.MaxAge, opts.Budget = 10_000, time.Hour, sendq.NewBudget(1<<20)
				}
				w, conn := stuck(t, opts)
				require.NoError(t, broker.Register("name", w))
				for s := w.Stats(); s.PendingBytes+64*s.Pending <= 1000; s = w.Stats() {
					require.Empty(t, told)
					send(w)
				}
				require.True(t, <-told)
				conn.Release()
				require.False(t, <-told)
				require.NoError(t, w.Close())
			})
		}
	}
}

// A Broker reports slow Writers by their names.
func TestEventsOfPressure(t *testing.T) {
	slowed := func(t *testing.T, opts *sendq.WriterOptions) (w *sendq.Writer, slow, steady func()) {
		w, peer := overPipe(t, opts)
		return w, func() {
				w.Write(make([]byte, 1000))
				synctest.Wait()
			}, func() {
				take(t, peer, 1000)
				synctest.Wait()
			}
	}
	marks := &sendq.WriterOptions{HighMark: 500}
	watch := func(t *testing.T, b *sendq.Broker) func() []string {
		var events []string
		go func() {
			for e := range b.Events(t.Context()) {
				events = append(events, e.Kind.String()+" "+e.Name)
			}
		}()
		return func() []string {
			synctest.Wait()
			news := events
			events = nil
			return news
		}
	}

	t.Run("of one Writer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := sendq.NewBroker(nil)
			events := watch(t, b)
			w, slow, steady := slowed(t, marks)
			slow()
			require.NoError(t, b.Register("ann", w))
			require.NoError(t, b.Register("anna", w))
			require.Equal(t, []string{"Joined ann", "Slow ann", "Joined anna", "Slow anna"}, events())
			steady()
			require.Equal(t, []string{"Steady ann", "Steady anna"}, events())
			require.True(t, b.Unregister("anna", w))
			slow()
			require.Equal(t, []string{"Left anna", "Slow ann"}, events())
			require.Equal(t, []string{"Joined ann", "Slow ann"}, watch(t, b)(), "later observers too")
			w.CloseNow()
			require.Equal(t, []string{"Left ann"}, events())

			w, slow, _ = slowed(t, nil)
			require.NoError(t, b.Register("ann", w))
			slow()
			require.Equal(t, []string{"Joined ann"}, events(), "it has no marks")
		})
	})

	t.Run("of several Writers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
			events := watch(t, b)
			v, vSlow, vSteady := slowed(t, marks)
			w, wSlow, _ := slowed(t, marks)
			require.NoError(t, b.Register("ann", v))
			require.NoError(t, b.Register("ann", w))
			vSlow()
			wSlow()
			require.Equal(t, []string{"Joined ann", "Slow ann"}, events())
			vSteady()
			require.Empty(t, events())
			w.CloseNow()
			require.Equal(t, []string{"Steady ann"}, events())
			vSlow()
			v.CloseNow()
			require.Equal(t, []string{"Slow ann", "Left ann"}, events())
		})
	})

	t.Run("after a takeover", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
			events := watch(t, b)
			v, vSlow, _ := slowed(t, marks)
			w, _, wSteady := slowed(t, marks)
			require.NoError(t, b.Register("ann", v))
			vSlow()
			require.Equal(t, []string{"Joined ann", "Slow ann"}, events())
			require.NoError(t, b.Register("ann", w))
			require.Equal(t, []string{"Steady ann", "Slow ann"}, events(), "it has inherited")
			wSteady()
			require.Equal(t, []string{"Steady ann"}, events())
			w.CloseNow()
			require.Equal(t, []string{"Left ann"}, events())
		})
	})
}
