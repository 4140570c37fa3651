package promsendq_test

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/promsendq"
)

//go:embed dashboard.json
var dashboard []byte

// The dashboard queries existing metrics only, and all of them.
func TestDashboard(t *testing.T) {
	var parsed any
	require.NoError(t, json.Unmarshal(dashboard, &parsed))
	var queried []string
	for _, query := range queriesIn(parsed) {
		queried = append(queried, regexp.MustCompile(`sendq_\w+`).FindAllString(query, -1)...)
	}
	for i, name := range queried {
		queried[i] = regexp.MustCompile(`(recipients)_(bucket|sum|count)$`).ReplaceAllString(name, "$1")
	}
	slices.Sort(queried)
	require.Equal(t, metricsOf(t, promsendq.NewBrokerCollector(sendq.NewBroker(nil))), slices.Compact(queried))
}

// queriesIn returns the values of all keys "expr" and "query" in v.
func queriesIn(v any) (queries []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			queries = append(queries, queriesIn(e)...)
		}
	case map[string]any:
		for key, e := range v {
			if query, ok := e.(string); ok && (key == "expr" || key == "query") {
				queries = append(queries, query)
			}
			queries = append(queries, queriesIn(e)...)
		}
	}
	return queries
}

// metricsOf returns the names of a collector's metrics, sorted.
func metricsOf(t *testing.T, c prometheus.Collector) (names []string) {
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		names = append(names, f.GetName())
	}
	return names
}
