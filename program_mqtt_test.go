package sendq_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// An mqttClient is the sending half of an MQTT broker's connection. What it publishes with QoS 0
// may be dropped, and expires. Its acknowledgements are never dropped, and keep their order.
type mqttClient struct{ w *sendq.Writer }

func newMQTTClient(conn net.Conn, maxPublishes int, expiry time.Duration) mqttClient {
	return mqttClient{sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxMessages:  maxPublishes,
		Overflow:     sendq.DropOldest,
		MaxAge:       expiry,
		Expire:       true,
		WriteTimeout: time.Hour,
		Farewell:     func(error) []byte { return mqttDisconnect(0x97) }, // quota exceeded
	})}
}

// Publish sends a PUBLISH packet with QoS 0: a header for this client, and the shared payload.
func (c mqttClient) Publish(topic string, payload []byte) error {
	header := mqttHeader(0x30, 2+len(topic)+len(payload))
	header = binary.BigEndian.AppendUint16(header, uint16(len(topic)))
	_, err := c.w.WriteParts(append(header, topic...), payload)
	return err
}

// Ack sends a PUBACK.
func (c mqttClient) Ack(id uint16) error {
	_, err := c.w.WriteAlways(binary.BigEndian.AppendUint16([]byte{0x40, 2}, id))
	return err
}

// Pong sends a PINGRESP, which does not wait for the publishes.
func (c mqttClient) Pong() error {
	_, err := c.w.WriteUrgent([]byte{0xd0, 0})
	return err
}

// Disconnect ends the connection with a reason, when all before it is sent.
func (c mqttClient) Disconnect(reason byte) error { return c.w.CloseWith(mqttDisconnect(reason)) }

func mqttHeader(kind byte, length int) []byte {
	return binary.AppendUvarint([]byte{kind}, uint64(length))
}

func mqttDisconnect(reason byte) []byte { return []byte{0xe0, 2, reason, 0} }

// mqttPackets returns the packets in short words.
func mqttPackets(p []byte) (words []string) {
	for len(p) > 0 {
		length, n := binary.Uvarint(p[1:])
		body := p[1+n:][:length]
		switch p[0] {
		case 0x30:
			words = append(words, string(body[2+binary.BigEndian.Uint16(body):]))
		case 0x40:
			words = append(words, fmt.Sprint("ack", binary.BigEndian.Uint16(body)))
		case 0xd0:
			words = append(words, "pong")
		case 0xe0:
			words = append(words, fmt.Sprintf("bye%x", body[0]))
		}
		p = p[1+n+int(length):]
	}
	return words
}

func TestProgramMQTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		c := newMQTTClient(conn, 32, time.Minute)
		require.NoError(t, c.Publish("topic", []byte("begun")))
		synctest.Wait()
		require.NoError(t, c.Publish("topic", []byte("old")))
		require.NoError(t, c.Ack(1))
		time.Sleep(2 * time.Minute) // the peer reads nothing, and "old" expires
		for i := range 100 {
			require.NoError(t, c.Publish("topic", fmt.Append(nil, "new", i)))
			if i%5 == 4 {
				require.NoError(t, c.Ack(uint16(2+i/5)))
			}
		}
		require.NoError(t, c.Pong())
		require.NoError(t, c.Disconnect(0x8b)) // the server shuts down
		received, err := io.ReadAll(peer)
		require.NoError(t, err)
		got := strings.Join(mqttPackets(received), " ")
		require.Regexp(t, "^begun pong ack1 ack2 .*new98 new99 ack21 bye8b$", got)
		require.NotContains(t, got, "old")
		require.NotContains(t, got, "new0 ")
		require.Equal(t, 21, strings.Count(got, "ack"))
		require.NoError(t, c.w.Shutdown(context.Background()))
	})
}
