//go:build linux

package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	require.True(t, math.IsNaN(median(nil)))
	require.Equal(t, 3.0, median([]float64{3}))
	require.Equal(t, 2.0, median([]float64{9, 1, 2}))
	unsorted := []float64{4, 1, 3, 100}
	require.Equal(t, 3.5, median(unsorted))
	require.Equal(t, []float64{4, 1, 3, 100}, unsorted, "the argument is unchanged")
}

func TestQuantile(t *testing.T) {
	var hundred []int64
	for i := range int64(100) {
		hundred = append(hundred, i+1)
	}
	require.EqualValues(t, 50, quantile(hundred, 0.50))
	require.EqualValues(t, 99, quantile(hundred, 0.99))
	require.EqualValues(t, 100, quantile(hundred, 0.999))
	require.EqualValues(t, 7, quantile([]int64{7}, 0.01))
	require.EqualValues(t, 0, quantile([]int64(nil), 0.5))
}

func TestFigure(t *testing.T) {
	sendq := figure{10, 20, 30}
	require.Equal(t, "20.0", sendq.against(sendq, significant), "sendq is not compared with itself")
	require.Equal(t, "50.0 (2.50×)", figure{50}.against(sendq, significant))
	require.Equal(t, "20.0 (1.00×)", figure{20}.against(sendq, significant))
	require.Equal(t, "–", figure(nil).against(sendq, significant))
	require.Equal(t, "50.0", figure{50}.against(nil, significant))
}

func TestUnits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.004: "<0.01", 0.456: "0.46", 1: "1.00", 9.994: "9.99", 9.996: "10.0", 12.34: "12.3", 99.94: "99.9", 99.96: "100",
		123.4: "123", 999.7: "1000", 1234.4: "1,234", 1234567: "1,234,567", -1234: "-1,234",
	} {
		require.Equal(t, want, significant(v), v)
	}
	require.Equal(t, "9,999", count(9999))
	require.Equal(t, "12.3 k", count(12_345))
	require.Equal(t, "12.3 M", count(12_345_678))
	require.Equal(t, "593 B", memory(593))
	require.Equal(t, "35.4 KB", memory(35_400))
	require.Equal(t, "1.50 GB", memory(1.5e9))
	require.Equal(t, "9.50 µs", span(9500))
	require.Equal(t, "1.25 ms", span(1.25e6))
	require.Equal(t, "3.80 s", span(3.8e9))
	require.Equal(t, "1 round", plural(1, "round"))
	require.Equal(t, "3 rounds", plural(3, "round"))
}
