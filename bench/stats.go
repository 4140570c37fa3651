//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// median returns the median of values, or NaN if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// quantile returns the q-quantile of sorted, or 0 if it is empty. It is one of the values.
func quantile[T int64 | float64](sorted []T, q float64) T {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// A unit formats a figure.
type unit func(v float64) string

// count formats 12345678 as 12.3 M.
func count(v float64) string {
	switch {
	case v >= 1e6:
		return significant(v/1e6) + " M"
	case v >= 1e4:
		return significant(v/1e3) + " k"
	}
	return significant(v)
}

// memory formats a number of bytes.
func memory(v float64) string {
	switch {
	case v >= 1e9:
		return significant(v/1e9) + " GB"
	case v >= 1e6:
		return significant(v/1e6) + " MB"
	case v >= 1e4:
		return significant(v/1e3) + " KB"
	}
	return significant(v) + " B"
}

// span formats nanoseconds in µs, ms or s.
func span(v float64) string {
	switch {
	case v >= float64(time.Second):
		return significant(v/1e9) + " s"
	case v >= float64(time.Millisecond):
		return significant(v/1e6) + " ms"
	}
	return significant(v/1e3) + " µs"
}

// significant formats v with three significant digits, or more if its integer part is longer.
func significant(v float64) string {
	switch magnitude := math.Abs(v); {
	case magnitude >= 1000:
		return thousands(int64(math.Round(v)))
	case magnitude >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case magnitude >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case magnitude == 0:
		return "0"
	case magnitude < 0.005:
		return "<0.01"
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands formats 12345 as 12,345.
func thousands(n int64) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// A figure holds the measurements of one thing in several rounds. Its value is their median.
type figure []float64

// against formats the figure's value and, in brackets, its ratio to sendq's.
func (f figure) against(sendq figure, u unit) string {
	if len(f) == 0 {
		return "–"
	}
	value, base := median(f), median(sendq)
	if len(sendq) == 0 || base == 0 || &f[0] == &sendq[0] {
		return u(value)
	}
	return fmt.Sprintf("%s (%s)", u(value), ratio(value, base))
}

func ratio(value, base float64) string { return significant(value/base) + "×" }
