package sendq

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A name costs nothing when nobody registers it any longer, even if somebody has given up.
func TestTurnsAreForgotten(t *testing.T) {
	b := NewBroker(&BrokerOptions{NamePolicy: NameTakeover})
	defer b.CloseNow()
	require.NoError(t, b.Register("bob", newIdleWriter()))
	turn, err := b.takeTurn(t.Context(), "bob")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, b.RegisterContext(ctx, "bob", newIdleWriter()), context.Canceled)
	b.endTurn(turn)
	require.NoError(t, b.Register("bob", newIdleWriter()))
	require.Zero(t, b.turns.Len())
}
