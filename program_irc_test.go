package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// An ircSocket is the connection of an IRC server to a client. It sends lines, has a limit called
// SendQ, and says why it ends.
type ircSocket struct{ w *sendq.Writer }

func newIRCSocket(conn net.Conn, sendQ int) ircSocket {
	return ircSocket{sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxPending:   sendQ,
		WriteTimeout: time.Minute,
		Farewell:     func(error) []byte { return []byte("ERROR :SendQ exceeded\r\n") },
	})}
}

// Write sends a line without waiting. A client beyond its SendQ is disconnected.
func (s ircSocket) Write(line string) error {
	_, err := s.w.WriteParts([]byte(line), []byte("\r\n"))
	return err
}

// BlockingWrite sends a line and waits until it is written. It never exceeds the SendQ by itself.
func (s ircSocket) BlockingWrite(ctx context.Context, line string) error {
	if err := s.w.WaitPending(ctx, 0); err != nil {
		return err
	}
	if err := s.Write(line); err != nil {
		return err
	}
	return s.w.Flush(ctx)
}

// Close ends the connection with a last line, and does not wait.
func (s ircSocket) Close(final string) {
	_ = s.w.CloseWith([]byte(final + "\r\n"))
}

func (s ircSocket) SendQExceeded() bool { return errors.Is(s.w.Err(), sendq.ErrSlowConsumer) }

func TestProgramIRC(t *testing.T) {
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		s := newIRCSocket(conn, 96<<10)
		received := async(func() content { return readAll(peer) })
		var want strings.Builder
		for i := range 1000 { // much more than the SendQ
			line := fmt.Sprintf("372 nick :%d %s", i, strings.Repeat("-", 400))
			fmt.Fprintf(&want, "%s\r\n", line)
			require.NoError(t, s.BlockingWrite(t.Context(), line))
		}
		s.Close("ERROR :Quit")
		require.ErrorIs(t, s.Write("late"), net.ErrClosed)
		require.Equal(t, content{want.String() + "ERROR :Quit\r\n", nil}, <-received)
		require.False(t, s.SendQExceeded())
	})
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		s := newIRCSocket(conn, 96<<10)
		line := "PRIVMSG #go :" + strings.Repeat("x", 400)
		for s.Write(line) == nil {
		}
		require.True(t, s.SendQExceeded())
		got := readAll(peer)
		require.NoError(t, got.err)
		require.Equal(t, "ERROR :SendQ exceeded\r\n", strings.ReplaceAll(got.bytes, line+"\r\n", ""))
	})
}
