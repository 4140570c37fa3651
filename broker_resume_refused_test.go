package sendq_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A Writer that Resume has refused counts from 0. So a program may try another count, or register it.
func TestResumeIsRefusedAndTriedAgain(t *testing.T) {
	b, _ := newBroker(sendq.NameTakeover)
	old := sendq.NewWriter(sendqtest.NewConn(), keeping)
	require.NoError(t, b.Register("bob", old))
	for i := range 10 {
		require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %d\n", i)))
	}
	require.NoError(t, old.Flush(t.Context()))
	var writers []*sendq.Writer
	for range 2 {
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		_, err := b.Resume(t.Context(), "bob", w, 11, nil)
		require.ErrorIs(t, err, sendq.ErrWrongCount)
		require.Zero(t, w.Stats().Acknowledged)
		writers = append(writers, w)
	}
	resumed, err := b.Resume(t.Context(), "bob", writers[0], 4, nil)
	require.NoError(t, err)
	require.Equal(t, sendq.Resumed{Messages: 6}, resumed)
	require.NoError(t, writers[0].Flush(t.Context()))

	w := writers[1]
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Send("bob", []byte("line\n")))
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.Acknowledge(1))
	require.Zero(t, w.Stats().Kept)
}
