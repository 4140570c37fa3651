//go:build linux

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Frames have the exact contents and lengths that clients count.
func TestFrames(t *testing.T) {
	for name, test := range map[string]struct {
		protocol                protocol
		message, frame, answer  string
		frameOf7                string
		messageBytes, frameSize int
	}{
		"chat":  {chatProtocol(), "*: hi\n", "from p0: hi\n", "", "from p7: hi\n", 68, 74},
		"hub":   {hubProtocol(), "hi\n", "hi\n", "hi\n", "hi\n", 65, 65},
		"nats":  {natsProtocol(), "PUB bench 2\r\nhi\r\n", "MSG bench 1 2\r\nhi\r\n", "", "MSG bench 1 2\r\nhi\r\n", 80, 82},
		"mqtt":  {mqttProtocol(), "\x30\x09\x00\x05benchhi", "\x30\x09\x00\x05benchhi", "", "\x30\x09\x00\x05benchhi", 73, 73},
		"redis": {redisProtocol(), "*3\r\n$7\r\nPUBLISH\r\n$5\r\nbench\r\n$2\r\nhi\r\n", "*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$2\r\nhi\r\n", ":12\r\n", "*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$2\r\nhi\r\n", 99, 99},
	} {
		p := test.protocol
		require.Equal(t, test.message, p.message(0, "hi"), name)
		require.Equal(t, test.frame, p.frame(0, "hi"), name)
		require.Equal(t, test.frameOf7, p.frame(7, "hi"), name)
		require.Equal(t, test.answer, p.answer("hi", 12), name)
		require.Len(t, p.message(0, payload), test.messageBytes, name)
		require.Len(t, p.frame(0, payload), test.frameSize, name)
		require.Len(t, p.frame(7, payload), test.frameSize, name)
	}
}

func TestLongFrames(t *testing.T) {
	p := mqttProtocol()
	require.Equal(t, "\x30\x87\x04\x00\x05bench"+stalledPayload, p.frame(0, stalledPayload)) // 4<<7 + 7 bytes follow
}

func TestWebSocketHeader(t *testing.T) {
	for size, want := range map[int]int{0: 2, 125: 2, 126: 4, 65535: 4, 65536: 10} {
		require.Equal(t, want, webSocketHeader(size), size)
	}
}
