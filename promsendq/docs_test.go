package promsendq_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/promsendq"
	"github.com/sendq-go/sendq/promsendq/internal/lab"
	"github.com/sendq-go/sendq/promsendq/promnatsrelay"
)

// The documentation of each package lists its metrics, with their labels and types.
func TestDocsListMetrics(t *testing.T) {
	for file, c := range map[string]prometheus.Collector{
		"doc.go":               promsendq.NewBrokerCollector(sendq.NewBroker(nil)),
		"promnatsrelay/doc.go": promnatsrelay.NewCollector(nil),
	} {
		var want []string
		for name, labels := range describe(c) {
			kind := "gauge"
			switch {
			case strings.HasSuffix(name, "_total"):
				kind = "counter"
			case strings.HasSuffix(name, "_recipients"):
				kind = "histogram"
			}
			if labels != "" {
				name += "{" + labels + "}"
			}
			want = append(want, name+" "+kind)
		}
		var listed []string
		for _, match := range find(t, file, `(?m)^\t(sendq_\S+) +(\w+) `) {
			listed = append(listed, match[1]+" "+match[2])
		}
		require.ElementsMatch(t, want, listed, file)
	}
}

// The alerts fire and do not fire as testdata/alerts_test.yml says, and are about existing metrics.
func TestAlerts(t *testing.T) {
	text, err := os.ReadFile("alerts.yml")
	require.NoError(t, err)
	require.Subset(t, allMetrics(), metricsIn(string(text)))
	output, err := exec.Command(lab.Find(t, "promtool"), "test", "rules", "testdata/alerts_test.yml").CombinedOutput()
	require.NoError(t, err, string(output))
}

// The README explains each alert, each alert has a case in which it fires, and all metrics that the
// README names exist.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.Subset(t, allMetrics(), metricsIn(string(text)))
	series := len(gather(t, promsendq.NewBrokerCollector(sendq.NewBroker(nil)))) + 1 // the bucket for the rest
	require.Contains(t, string(text), fmt.Sprintf("A Broker has %d series.", series))
	cases, err := os.ReadFile("testdata/alerts_test.yml")
	require.NoError(t, err)
	for _, alert := range alerts(t) {
		require.Contains(t, string(text), "| `"+alert+"` |")
		require.Contains(t, string(cases), "alertname: "+alert+"\n        exp_alerts:\n")
	}
}

// alerts returns the names of the alerts.
func alerts(t *testing.T) (names []string) {
	t.Helper()
	for _, match := range find(t, "alerts.yml", `- alert: (\w+)`) {
		names = append(names, match[1])
	}
	return names
}

// find returns the matches of a pattern in a file, with their groups.
func find(t *testing.T, file, pattern string) [][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1)
}

// allMetrics returns the metrics of all collectors, sorted.
func allMetrics() []string {
	return slices.Sorted(slices.Values(slices.Concat(
		metricsOf(promsendq.NewBrokerCollector(sendq.NewBroker(nil))),
		metricsOf(promnatsrelay.NewCollector(nil)),
	)))
}

// metricsOf returns the names of a collector's metrics, sorted.
func metricsOf(c prometheus.Collector) (names []string) {
	for name := range describe(c) {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// describe returns the labels of a collector's metrics, by name.
func describe(c prometheus.Collector) map[string]string {
	labels := make(map[string]string)
	descs := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	for d := range descs {
		match := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: {(.*)}}`).FindStringSubmatch(d.String())
		labels[match[1]] = match[2]
	}
	return labels
}
