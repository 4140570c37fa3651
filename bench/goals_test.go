//go:build linux

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoals(t *testing.T) {
	fast, slow := figure{30, 31, 32}, figure{10, 10, 10}
	got := goalTable([]goal{
		atLeast("faster", 3, fast, slow),
		atLeast("much faster", 3.2, fast, slow),
		atMost("smaller", 0.4, slow, fast),
		atMost("much smaller", 0.3, slow, fast),
		atLeast("not measured", 1, fast, nil),
		{what: "bytes", bound: 256, atMost: true, measured: 256, in: memory},
	})
	require.Equal(t, [][]string{
		{"faster", "at least 3.00×", "3.10×", "yes"},
		{"much faster", "at least 3.20×", "3.10×", "no"},
		{"smaller", "at most 0.40×", "0.32×", "yes"},
		{"much smaller", "at most 0.30×", "0.32×", "no"},
		{"bytes", "at most 256 B", "256 B", "yes"},
	}, got.rows)
}
