package sendq

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/sock"
)

// A peer is silent from the look on that has found something to take, and until it takes some.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name      string
		last, now sock.State
		isWriting bool // since before the last look
		want      bool
	}{
		{"nothing to take", sock.State{Acknowledged: 5}, sock.State{Acknowledged: 5}, false, false},
		{"bytes that are new", sock.State{Acknowledged: 5}, sock.State{Acknowledged: 5, Unacknowledged: 1}, true, false},
		{"the same bytes", sock.State{Acknowledged: 5, Unacknowledged: 1}, sock.State{Acknowledged: 5, Unacknowledged: 1}, false, true},
		{"more bytes", sock.State{Acknowledged: 5, Unacknowledged: 1}, sock.State{Acknowledged: 5, Unacknowledged: 9}, false, true},
		{"some were acknowledged", sock.State{Acknowledged: 5, Unacknowledged: 9}, sock.State{Acknowledged: 6, Unacknowledged: 8}, true, false},
		{"some were read", sock.State{Unread: 9}, sock.State{Unread: 8}, true, false},
		{"none were read", sock.State{Unread: 9}, sock.State{Unread: 9}, true, true},
		{"a write", sock.State{}, sock.State{}, true, true},
	} {
		l := &limits{deadlines: deadlines{peer: tt.last}}
		require.Equal(t, tt.want, l.isSilent(tt.now, tt.isWriting), tt.name)
		l.deadlines.begun++ // a write has begun since, and the one before has returned
		require.Equal(t, tt.want && tt.last.Unacknowledged > 0, l.isSilent(tt.now, tt.isWriting), tt.name)
	}
}
