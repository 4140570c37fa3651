package promsendq_test

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

//go:embed dashboard.json
var dashboard []byte

// The dashboard queries existing metrics only, and all of them.
func TestDashboard(t *testing.T) {
	var queried []string
	for _, panel := range panels(t) {
		for _, target := range panel.Targets {
			queried = append(queried, metricsIn(target.Expr)...)
		}
	}
	slices.Sort(queried)
	require.Equal(t, allMetrics(), slices.Compact(queried))
}

// A panel is a part of the dashboard. A target is a query with a name for each series.
type panel struct {
	Title   string
	Targets []struct{ Expr, LegendFormat string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var parsed struct{ Panels []panel }
	require.NoError(t, json.Unmarshal(dashboard, &parsed))
	return parsed.Panels
}

// metricsIn returns the metrics in a text, not sorted.
func metricsIn(text string) (names []string) {
	for _, match := range regexp.MustCompile(`\b(sendq_\w+?)((recipients)_(bucket|sum|count))?\b`).FindAllStringSubmatch(text, -1) {
		names = append(names, match[1]+match[3])
	}
	return names
}
