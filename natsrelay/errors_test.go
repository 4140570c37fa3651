package natsrelay

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// The text of an error names the package once, and the causes can be found.
func TestFailureNamesThePackageOnce(t *testing.T) {
	lost := fmt.Errorf("%w: %w: n2", context.DeadlineExceeded, ErrNodeLost)
	err := failed(lost, "claim %q", "bob")
	require.EqualError(t, err, `natsrelay: claim "bob": context deadline exceeded: node unreachable: n2`)
	require.ErrorIs(t, err, ErrNodeLost)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
