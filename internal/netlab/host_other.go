//go:build !linux

package netlab

import (
	"errors"
	"os"
)

func enterNewNamespace() error { return errors.ErrUnsupported }

func openTUN(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func mptcpSubflows(uintptr) (int, error) { return 0, errors.ErrUnsupported }
