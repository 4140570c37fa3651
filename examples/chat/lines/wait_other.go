//go:build !unix

package lines

import "io"

// waitFor returns nil, so a buffer is held while Read waits.
func waitFor(io.Reader) func() error { return nil }
