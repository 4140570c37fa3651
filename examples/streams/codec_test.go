package streams

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/encoding"
)

// gRPC may still have a message when SendMsg has returned, and the Writer uses its bytes again.
func TestCodecCopies(t *testing.T) {
	p := encoded("message")
	got, err := codec{encoding.GetCodecV2("proto")}.Marshal(p)
	require.NoError(t, err)
	clear(p)
	require.Equal(t, "message", string(got.Materialize()))
}
