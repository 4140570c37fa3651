package streams

import (
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sendq-go/sendq"
)

// ServeChannel registers a channel of SSH in b, until the client goes, and sends what it types to
// all.
func ServeChannel(b *sendq.Broker, name string, channel ssh.Channel, conn ssh.Conn) error {
	w := sendq.NewWriter(sendq.StreamConn(sshStream{channel, conn}), &sendq.WriterOptions{MaxPending: 4 << 20})
	defer w.Close()
	if err := b.Register(name, w); err != nil {
		return err
	}
	p := make([]byte, 4096)
	for {
		n, err := channel.Read(p)
		if err != nil || w.Err() != nil {
			return err
		}
		b.Broadcast(p[:n])
	}
}

// An sshStream is a channel whose stuck Write can be interrupted, by the end of the connection. Close
// of a channel is no help, because it waits for the same peer.
type sshStream struct {
	ssh.Channel
	conn ssh.Conn
}

// SetWriteDeadline is called to interrupt a Write.
func (s sshStream) SetWriteDeadline(time.Time) error { return s.conn.Close() }
