package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// Each message of a protocol that may be sent again reports what became of it.
func ExampleWriter_WriteNotify() {
	conn, peer := net.Pipe()
	w := sendq.NewWriter(conn, nil)
	outcomes := make(chan error)

	w.WriteNotify([]byte("one"), func(err error) { outcomes <- err })
	peer.Read(make([]byte, 3))
	fmt.Println("one:", <-outcomes)

	w.WriteNotify([]byte("two"), func(err error) { outcomes <- err })
	w.CloseNow()
	fmt.Println("two:", <-outcomes)
	// Output:
	// one: <nil>
	// two: sendq: undelivered messages: 1 (3 bytes): closed
}

// A server ends a request when its answer is written, and keeps no goroutine for the wait.
func ExampleWriter_OnFlushed() {
	conn, peer := net.Pipe()
	w := sendq.NewWriter(conn, nil)
	defer w.CloseNow()
	done := make(chan struct{})
	w.WriteString("answer\n")
	w.OnFlushed(func(err error) {
		fmt.Println("written:", err == nil)
		close(done)
	})

	peer.Read(make([]byte, 7))
	<-done
	// Output: written: true
}

// noted collects outcomes by name. Its calls must not overlap, so it has no lock.
type noted []string

func (n *noted) note(name string) func(error) {
	return func(err error) {
		switch {
		case err == nil:
		case errors.Is(err, sendq.ErrDropped):
			name += " dropped"
		case errors.Is(err, net.ErrClosed):
			name += " closed"
		default:
			name += err.Error()
		}
		*n = append(*n, name)
	}
}

func TestOnFlushed(t *testing.T) {
	t.Run("over connections", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, nil)
			arrived := async(func() content { return readAll(peer) })
			for range 100 {
				require.NoError(t, second(w.Write(make([]byte, 10_000))))
			}
			flushed := make(chan error, 1)
			w.OnFlushed(func(err error) { flushed <- err })
			require.NoError(t, <-flushed)
			require.EqualValues(t, 100, w.Stats().Written)
			require.NoError(t, w.Close())
			require.Len(t, (<-arrived).bytes, 1_000_000)
			w.OnFlushed(func(err error) { flushed <- err })
			require.NoError(t, <-flushed, "after the end")
		})
	})

	t.Run("in order, stopped, and ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, peer := overPipe(t, nil)
			var n noted
			w.OnFlushed(n.note("nothing pending"))
			w.WriteString("12")
			synctest.Wait() // it is being written
			w.OnFlushed(n.note("first"))
			stopped := w.OnFlushed(n.note("stopped"))
			w.WriteString("3")
			last := w.OnFlushed(n.note("last"))
			synctest.Wait()
			require.Equal(t, noted{"nothing pending"}, n)
			require.True(t, stopped())
			require.False(t, stopped())
			requireTake(t, peer, "12")
			synctest.Wait()
			require.Equal(t, noted{"nothing pending", "first"}, n)
			require.NoError(t, w.CloseNow())
			synctest.Wait()
			require.Equal(t, noted{"nothing pending", "first", "last closed"}, n)
			require.False(t, last())
			w.OnFlushed(n.note("late"))
			synctest.Wait()
			require.Equal(t, "late closed", n[3])
			require.False(t, stopped())
		})
	})
}

func TestWriteNotify(t *testing.T) {
	t.Run("over connections", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 10_000, Overflow: sendq.Block})
			arrived := async(func() content { return readAll(peer) })
			const senders, messages = 4, 300
			var outcomes, failed int
			var sending sync.WaitGroup
			for range senders {
				sending.Go(func() {
					for i := range messages {
						p := make([]byte, i)
						n, err := w.WriteNotify(p, func(err error) {
							if outcomes++; err != nil {
								failed++
							}
						})
						if n != i || err != nil {
							t.Errorf("WriteNotify: %d, %v", n, err)
						}
					}
				})
			}
			sending.Wait()
			done := make(chan error)
			w.OnFlushed(func(err error) { done <- err })
			require.NoError(t, <-done)
			require.Equal(t, senders*messages, outcomes)
			require.Zero(t, failed)
			require.NoError(t, w.Close())
			require.Len(t, (<-arrived).bytes, senders*messages*(messages-1)/2)
		})
	})

	t.Run("refused, dropped and undelivered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 4 * 65, Overflow: sendq.DropOldest})
			var n noted
			for _, name := range []string{"0", "1", "2", "3"} {
				require.NoError(t, second(w.WriteNotify([]byte(name), n.note(name))))
				synctest.Wait() // the first is being written
			}
			w.OnFlushed(n.note("flushed"))
			for _, name := range []string{"4", "5"} {
				require.NoError(t, second(w.WriteNotify([]byte(name), n.note(name))))
			}
			require.ErrorIs(t, second(w.WriteNotify(make([]byte, 200), n.note("large"))), sendq.ErrTooLarge)
			synctest.Wait()
			require.Equal(t, noted{"1 dropped", "2 dropped"}, n)
			requireTake(t, peer, "0")
			synctest.Wait()
			require.Equal(t, noted{"0"}, n[2:])
			requireTake(t, peer, "3")
			synctest.Wait()
			require.Equal(t, noted{"3", "flushed"}, n[3:])
			require.NoError(t, w.CloseNow())
			synctest.Wait()
			require.Equal(t, noted{"4 closed", "5 closed"}, n[5:])
			require.ErrorIs(t, second(w.WriteNotify(nil, n.note("late"))), net.ErrClosed)
			synctest.Wait()
			require.Len(t, n, 7)
		})
	})

	t.Run("of blocked senders", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 2 * 65, Overflow: sendq.Block})
			var n noted
			require.NoError(t, second(w.WriteNotify([]byte("0"), n.note("0"))))
			synctest.Wait() // it is being written
			sent := async(func() error {
				for _, name := range []string{"1", "2", "3"} {
					if _, err := w.WriteNotify([]byte(name), n.note(name)); err != nil {
						return err
					}
				}
				return nil
			})
			requireTake(t, peer, "0123")
			require.NoError(t, <-sent)
			synctest.Wait()
			require.Equal(t, noted{"0", "1", "2", "3"}, n)
			w.CloseNow()
		})
	})

	t.Run("of a takeover", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
			old, _ := overPipe(t, nil)
			next, peer := overPipe(t, &sendq.WriterOptions{MessageFramed: true})
			require.NoError(t, b.Register("name", old))
			var oldNotes, notes noted
			old.WriteNotify([]byte("0"), func(err error) {
				if errors.Is(err, sendq.ErrTakenOver) {
					err = nil
				}
				oldNotes.note("taken over")(err)
			})
			next.WriteNotify([]byte("1"), notes.note("1"))
			synctest.Wait()
			next.WriteNotify([]byte("2"), notes.note("2"))
			require.NoError(t, b.Register("name", next))
			requireTake(t, peer, "10")
			synctest.Wait()
			require.Equal(t, noted{"1"}, notes)
			requireTake(t, peer, "2")
			synctest.Wait()
			require.Equal(t, noted{"1", "2"}, notes)
			require.Equal(t, noted{"taken over"}, oldNotes, "although its message has arrived")
			next.CloseNow()
		})
	})
}

// A call may call methods of the Writer, end its goroutine, and take long: nobody else waits.
func TestNoticesAreInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sendq.NewWriter(sendqtest.NewConn(), nil)
		var n noted
		w.WriteNotify(nil, func(error) { runtime.Goexit() })
		w.WriteNotify(nil, func(error) {
			time.Sleep(time.Hour)
			_ = w.Flush(context.Background())
			w.OnFlushed(n.note("inner"))
			w.Stats()
		})
		w.OnFlushed(n.note("outer"))
		began := time.Now()
		require.NoError(t, w.Flush(t.Context()))
		require.NoError(t, w.Close())
		require.Equal(t, began, time.Now(), "although a call takes an hour")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Equal(t, noted{"outer", "inner"}, n)
	})
}
