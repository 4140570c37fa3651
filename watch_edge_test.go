package sendq_test

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// A Writer that has nothing to do has no timer either: nobody looks at its connection.
func TestNobodyLooksAtAnIdleWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 8 * time.Second
		conn := &watchedConn{Conn: faultconn.New()}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout, MaxAge: timeout})
		for range 3 {
			waiting := conn.Stall()
			require.NoError(t, w.Send([]byte("message")))
			<-waiting
			time.Sleep(timeout / 2)
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			time.Sleep(timeout)
			looks := conn.looks.Load()
			require.Positive(t, looks)
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Equal(t, looks, conn.looks.Load())
		}
		conn.Stall()
		require.NoError(t, w.Send([]byte("message")))
		<-w.Done() // it is watched again
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	})
}

// A watchedConn counts how often somebody looks what is beneath.
type watchedConn struct {
	*faultconn.Conn
	looks atomic.Int64
}

func (c *watchedConn) NetConn() net.Conn {
	c.looks.Add(1)
	return nil
}

// While a takeover holds a Writer nothing is written, and its peer has no fault in that.
func TestWriteTimeoutDoesNotCountWhileHeld(t *testing.T) {
	inTakeoverBy(t, &sendq.WriterOptions{WriteTimeout: time.Second}, func(t *testing.T, u underWay) {
		u.w.WriteString("before\n")
		synctest.Wait()
		requireTake(t, u.peer, "before\n")
		u.begin()
		u.w.WriteString("later\n")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, u.w.Err())
		u.end()
		requireReceived(t, u, "old 0\n", "old 1\n", "later\n")
	})
}
