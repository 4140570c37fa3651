//go:build !unix

package sendq_test

import (
	"errors"
	"os"
)

func stop(*os.Process, bool) error { return errors.ErrUnsupported }
