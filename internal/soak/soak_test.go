package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSoak(t *testing.T) {
	var out bytes.Buffer
	require.True(t, soak(context.Background(), &out, 300_000, 1), "%s", &out)
	t.Logf("%s", &out)
}

// An interrupted run must account for every message too.
func TestSoakInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	require.True(t, soak(ctx, &out, 1<<40, 1), "%s", &out)
	require.Contains(t, out.String(), "| faults | 0 |")
}

// TestSoakAttach makes an episode in which several Writers share each name.
func TestSoakAttach(t *testing.T) {
	s := &soaker{seed: 1}
	s.total.episodes = 2
	s.episode(t.Context(), 10_000)
	require.Empty(t, s.faults)
	require.Positive(t, s.total.attached)
	require.Greater(t, s.total.accepted, s.delivered.Load(), "a message is several Writers'")
}

func TestStream(t *testing.T) {
	message := func(sender int, number uint32, body int) []byte { return appendMessage(nil, sender, number, body) }
	a, b, c := message(0, 1, 0), message(0, 3, 8), message(1, 1, 5000)
	var s stream
	rest, err := s.take(bytes.Join([][]byte{a, b, c, a[:5]}, nil))
	require.NoError(t, err)
	require.Equal(t, a[:5], rest)
	require.EqualValues(t, 3, s.messages)
	for name, p := range map[string][]byte{
		"torn header":  append(a[:9:9], a...),
		"torn body":    append(c[:3000:3000], message(0, 2, 5000)...),
		"doubled":      append(a, a...),
		"out of order": append(b, a...),
	} {
		var s stream
		_, err := s.take(p)
		require.Error(t, err, name)
	}
}
