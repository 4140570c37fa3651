package sendq_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// However a Writer with a name ends, its messages are handed back with the cause.
func TestOnUndelivered(t *testing.T) {
	const limit = time.Second
	left := []string{"one\n", "two\n"}
	for _, tt := range []struct {
		name  string
		opts  *sendq.WriterOptions
		end   func(b *sendq.Broker, w *sendq.Writer, conn *sendqtest.Conn)
		cause error
	}{
		{"a failing connection", nil, func(_ *sendq.Broker, _ *sendq.Writer, conn *sendqtest.Conn) { conn.Release() }, errBroken},
		{"CloseNow", nil, func(_ *sendq.Broker, w *sendq.Writer, _ *sendqtest.Conn) { w.CloseNow() }, sendq.ErrClosed},
		{"CloseTimeout", nil, func(_ *sendq.Broker, w *sendq.Writer, _ *sendqtest.Conn) { w.Close() }, context.DeadlineExceeded},
		{"MaxPending", &sendq.WriterOptions{MaxPending: 140}, func(_ *sendq.Broker, w *sendq.Writer, _ *sendqtest.Conn) {
			w.WriteString("three\n")
		}, sendq.ErrSlowConsumer},
		{"MaxAge", &sendq.WriterOptions{MaxAge: limit}, func(*sendq.Broker, *sendq.Writer, *sendqtest.Conn) {
			time.Sleep(2 * limit)
		}, sendq.ErrSlowConsumer},
		{"Shutdown of the Broker", nil, func(b *sendq.Broker, _ *sendq.Writer, _ *sendqtest.Conn) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			b.Shutdown(ctx)
		}, context.DeadlineExceeded},
		{"Close of the Broker", nil, func(b *sendq.Broker, _ *sendq.Writer, _ *sendqtest.Conn) { b.CloseNow() }, sendq.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, returned := newBroker(sendq.NameReject)
				conn := stalledPeer()
				conn.FailAfter(3, errBroken)
				w := sendq.NewWriter(conn, tt.opts)
				require.NoError(t, b.Register("bob", w))
				require.NoError(t, b.Send("bob", []byte(left[0])))
				require.NoError(t, b.Send("bob", []byte(left[1])))
				synctest.Wait()
				tt.end(b, w, conn)
				synctest.Wait()
				require.True(t, hasEnded(w))
				require.ErrorIs(t, w.Err(), tt.cause)
				require.Equal(t, []handBack{{"bob", left, w.Err()}}, returned.all())
				require.NoError(t, b.CloseNow(), "again")
				require.Len(t, returned.all(), 1)
			})
		})
	}
}

func TestOnUndeliveredIsNotCalled(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, b *sendq.Broker, w *sendq.Writer, conn *sendqtest.Conn)
	}{
		{"all is delivered", func(t *testing.T, _ *sendq.Broker, w *sendq.Writer, conn *sendqtest.Conn) {
			conn.Release()
			require.NoError(t, w.Close())
		}},
		{"all is delivered by Shutdown", func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, conn *sendqtest.Conn) {
			conn.Release()
			require.NoError(t, b.Shutdown(t.Context()))
		}},
		{"nothing is left", func(t *testing.T, _ *sendq.Broker, w *sendq.Writer, conn *sendqtest.Conn) {
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			w.CloseNow()
		}},
		{"it has no name any more", func(t *testing.T, b *sendq.Broker, w *sendq.Writer, _ *sendqtest.Conn) {
			require.True(t, b.Unregister("bob", w))
			w.CloseNow()
		}},
		{"another takes over and delivers", func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, _ *sendqtest.Conn) {
			require.NoError(t, register(t, b, "bob", readingPeer()).Close())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, returned := newBroker(sendq.NameTakeover)
				conn := stalledPeer()
				w := register(t, b, "bob", conn)
				require.NoError(t, b.Send("bob", []byte("hello\n")))
				synctest.Wait()
				tt.end(t, b, w, conn)
				synctest.Wait()
				require.True(t, hasEnded(w))
				require.Empty(t, returned.all())
			})
		})
	}
}

// Inherited messages that remain undelivered are handed back once, by their last Writer, before
// later messages.
func TestOnUndeliveredAfterTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
		for i := range 3 {
			register(t, b, "bob", stalledPeer())
			require.NoError(t, b.Send("bob", fmt.Append(nil, i)))
			synctest.Wait()
		}
		w, _ := b.Lookup("bob")
		w.CloseNow()
		synctest.Wait()
		require.Equal(t, []handBack{{"bob", []string{"0", "1", "2"}, sendq.ErrClosed}}, returned.all())
	})
}

func TestOnUndeliveredOfSeveralNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameAttach)
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Register("robert", w))
		require.Equal(t, 2, b.Broadcast([]byte("hello\n")))
		w.CloseNow()
		synctest.Wait()
		require.Len(t, returned.all(), 1)
		require.Contains(t, []string{"bob", "robert"}, returned.all()[0].name)
		require.Equal(t, []string{"hello\n", "hello\n"}, returned.all()[0].messages)
	})
}

// The calls are made one by one, in the order in which the Writers ended. They delay only each
// other and Shutdown.
func TestOnUndeliveredHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10
		var b *sendq.Broker
		var returned handBacks
		var calls sync.Mutex
		goOn := make(chan struct{})
		b = sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(name string, messages iter.Seq[[]byte], cause error) {
			if !assert.True(t, calls.TryLock(), "two calls at a time") {
				return
			}
			defer calls.Unlock()
			<-goOn
			returned.add(name, messages, cause)
			for p := range messages { // it may use the Broker
				assert.NoError(t, b.Send("archive", p))
			}
		}})
		archive := readingPeer()
		keeper := register(t, b, "archive", archive)
		goroutines := runtime.NumGoroutine()
		var want []handBack
		for i := range n {
			name := memberName(i)
			w := register(t, b, name, stalledPeer())
			require.NoError(t, b.Room("room").Join(name))
			require.NoError(t, b.Send(name, []byte(name+"\n")))
			w.CloseNow() // returns when the Writer is done
			want = append(want, handBack{name, []string{name + "\n"}, sendq.ErrClosed})
			require.ErrorIs(t, b.Send(name, nil), sendq.ErrUnknownName)
			require.Zero(t, b.Room("room").Len())
		}
		register(t, b, memberName(0), readingPeer()).CloseNow()
		require.Equal(t, 1, b.Broadcast([]byte("first\n")))
		require.NoError(t, keeper.Flush(t.Context()))
		synctest.Wait()
		require.Empty(t, returned.all())
		require.LessOrEqual(t, goroutinesLeft(goroutines+1), goroutines+1, "one for all calls")

		close(goOn)
		synctest.Wait()
		require.Equal(t, want, returned.all())
		require.LessOrEqual(t, goroutinesLeft(goroutines), goroutines)
		require.NoError(t, b.Shutdown(t.Context()))
		require.Len(t, linesOf(archive), 1+n)
	})
}

func TestShutdownWaitsForOnUndelivered(t *testing.T) {
	const bound, call = 5 * time.Second, time.Minute
	for _, tt := range []struct {
		name  string
		end   func(*sendq.Broker, context.Context) error
		cause error
		took  time.Duration
	}{
		{"Shutdown", (*sendq.Broker).Shutdown, context.DeadlineExceeded, bound + 3*call},
		{"Close", func(b *sendq.Broker, _ context.Context) error { return b.CloseNow() }, sendq.ErrClosed, 3 * call},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				called := 0 // unguarded: the return of Shutdown comes after the calls
				b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(string, iter.Seq[[]byte], error) {
					time.Sleep(call)
					called++
				}})
				for i := range 3 {
					register(t, b, memberName(i), stalledPeer())
				}
				require.Equal(t, 3, b.Broadcast([]byte("hello\n")))
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				require.ErrorIs(t, tt.end(b, ctx), tt.cause)
				require.Equal(t, 3, called)
				require.Equal(t, tt.took, time.Since(start))
			})
		})
	}
}

// After a call of OnUndelivered the Broker keeps neither the Writer nor its messages.
func TestOnUndeliveredForgets(t *testing.T) {
	calls := make(chan string)
	b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(name string, _ iter.Seq[[]byte], _ error) { calls <- name }})
	end := func(name string) weak.Pointer[sendq.Writer] {
		w := sendq.NewWriter(stalledPeer(), nil)
		require.NoError(t, b.Register(name, w))
		require.NoError(t, b.Send(name, []byte("message")))
		w.CloseNow()
		return weak.Make(w)
	}
	var ended []weak.Pointer[sendq.Writer]
	for i := range 3 { // the first call waits, so that the others are queued together
		ended = append(ended, end(memberName(i)))
	}
	for _, w := range ended {
		<-calls
		requireForgotten(t, w) // while the next call waits
	}
	runtime.KeepAlive(b)
}

// requireForgotten requires that nothing keeps a Writer alive.
func requireForgotten(t *testing.T, w weak.Pointer[sendq.Writer]) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); w.Value() != nil; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "the Writer is kept")
		runtime.GC()
	}
}

// A handler that ends its goroutine, as t.FailNow does, stops no other call.
func TestOnUndeliveredSurvivesGoexit(t *testing.T) {
	var calls atomic.Int64
	b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(string, iter.Seq[[]byte], error) {
		calls.Add(1)
		runtime.Goexit()
	}})
	for i := range 10 {
		register(t, b, memberName(i), stalledPeer())
	}
	b.Broadcast([]byte("message"))
	require.Error(t, b.CloseNow())
	require.EqualValues(t, 10, calls.Load())
}

// If a Writer has names in several Brokers, one with OnUndelivered hands its messages back,
// whichever Broker learns of the end first, and however the Writer ends.
func TestOnUndeliveredOfSeveralBrokers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for i := range 6 {
			var brokers []*sendq.Broker
			var returned handBacks
			for j := range 3 {
				var opts sendq.BrokerOptions
				if j == i%3 {
					opts.OnUndelivered = returned.add
				}
				brokers = append(brokers, sendq.NewBroker(&opts))
			}
			w := sendq.NewWriter(stalledPeer(), nil)
			for _, b := range brokers {
				require.NoError(t, b.Register("bob", w))
			}
			require.NoError(t, brokers[0].Send("bob", []byte("hello\n")))
			if i < 3 {
				w.CloseNow()
			} else {
				brokers[0].CloseNow()
			}
			synctest.Wait()
			require.Equal(t, []handBack{{"bob", []string{"hello\n"}, sendq.ErrClosed}}, returned.all())
		}
	})
}

// A node that loses a name hands back the messages of its Writer, unless another Broker does.
func TestOnUndeliveredOfALostName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, cluster := alone(t, nil)
		other, returned := newBroker(sendq.NameReject)
		w := register(t, cluster, "bob", stalledPeer())
		require.NoError(t, other.Register("bob", w))
		require.NoError(t, cluster.Send("bob", []byte("hello\n")))
		node.NameLost("bob")
		<-w.Done()
		synctest.Wait()
		require.Equal(t, []handBack{{"bob", []string{"hello\n"}, sendq.ErrNameLost}}, returned.all())
	})
}

// If both Brokers have OnUndelivered, only one calls it.
func TestOnUndeliveredOfTwoBrokersIsCalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, returnedByOne := newBroker(sendq.NameReject)
		two, returnedByTwo := newBroker(sendq.NameReject)
		w := register(t, one, "bob", stalledPeer())
		require.NoError(t, two.Register("bob", w))
		require.NoError(t, one.Send("bob", []byte("hello\n")))
		w.CloseNow()
		synctest.Wait()
		require.Len(t, append(returnedByOne.all(), returnedByTwo.all()...), 1)
	})
}

// Close of a Broker waits for the messages of a lost name, even if its Writer ends slowly.
func TestCloseWaitsForALostName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		node, b := alone(t, &sendq.BrokerOptions{OnUndelivered: returned.add})
		conn, releaseClose := stalledClose()
		register(t, b, "bob", conn)
		require.NoError(t, b.Send("bob", []byte("hello\n")))
		node.NameLost("bob")
		synctest.Wait()
		closed := async(b.CloseNow)
		synctest.Wait()
		require.Empty(t, closed)
		releaseClose()
		require.NoError(t, <-closed)
		require.Equal(t, []handBack{{"bob", []string{"hello\n"}, sendq.ErrNameLost}}, returned.all())
	})
}

// A farewell to who has lost a name does not hold up the end of the Broker beyond its bound.
func TestEndOfABrokerBoundsFarewells(t *testing.T) {
	for name, end := range map[string]func(*sendq.Broker, context.Context) error{
		"Shutdown": (*sendq.Broker).Shutdown,
		"CloseNow": func(b *sendq.Broker, _ context.Context) error { return b.CloseNow() },
		"Drain": func(b *sendq.Broker, ctx context.Context) error {
			return b.Drain(ctx, 0, func(string) []byte { panic("called") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node, b := alone(t, nil)
				w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{
					CloseTimeout: time.Hour,
					Farewell:     func(error) []byte { return []byte("farewell") },
				})
				require.NoError(t, b.Register("bob", w))
				node.NameLost("bob")
				synctest.Wait()
				require.False(t, hasEnded(w))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				_ = end(b, ctx)
				require.LessOrEqual(t, time.Since(began), time.Minute)
				require.True(t, hasEnded(w))
				require.ErrorIs(t, w.Err(), sendq.ErrNameLost)
			})
		})
	}
}

// If another node takes over one name of a Writer with two names, it gets the messages for both,
// and nothing is handed back here.
func TestEvictedWriterWithTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		node, b := alone(t, &sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add})
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Register("robert", w))
		require.NoError(t, b.Send("robert", []byte("hello\n")))
		handover, ok := node.Evict(t.Context(), "bob", "other", 1)
		require.True(t, ok)
		require.Equal(t, [][]byte{[]byte("hello\n")}, handover.Undelivered)
		synctest.Wait()
		require.Zero(t, b.Len())
		require.Empty(t, returned.all())
	})
}
