package promsendq_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/promsendq/internal/lab"
)

// A source identifies the program that a metric comes from.
type source struct{ job, instance string }

// A monitored program is scraped by Prometheus.
type monitored struct {
	*lab.Prometheus
	at string // time of the scrape to look at
}

// startScraping starts Prometheus and waits for its first scrape of the collectors. One HTTP server
// has all metrics, so that all samples have the same time.
func startScraping(t *testing.T, collectors map[source]prometheus.Collector) *monitored {
	t.Helper()
	registry := prometheus.NewRegistry()
	for s, c := range collectors {
		labels := prometheus.Labels{"job": s.job, "instance": s.instance}
		prometheus.WrapRegistererWith(labels, registry).MustRegister(c)
	}
	program := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(program.Close)
	alerts, err := filepath.Abs("alerts.yml")
	require.NoError(t, err)
	p := &monitored{Prometheus: lab.StartPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: test
    honor_labels: true
    static_configs: [targets: [%q]]
`, alerts, program.Listener.Addr()))}
	p.waitForScrape(t, time.Time{})
	return p
}

// settle waits for a scrape of the present state.
func (p *monitored) settle(t *testing.T) {
	t.Helper()
	p.waitForScrape(t, time.Now().Add(time.Second))
}

// waitForScrape waits for a scrape after that time, and notes its time.
func (p *monitored) waitForScrape(t *testing.T, after time.Time) {
	t.Helper()
	lab.WaitFor(t, func() bool {
		for _, s := range p.Query(t, `max(timestamp({__name__=~"sendq_writers|sendq_relay_connected"}))`, "") {
			p.at = fmt.Sprintf("%.3f", s.Value)
			return s.Value > float64(after.UnixMilli())/1000
		}
		return false
	})
}

// window is the number of seconds that the dashboard's rates cover. It is longer than the test, and
// all counters begin with 0, so a rate is exact: Prometheus extrapolates neither below 0 nor beyond
// the last scrape, which is the time of the query.
const window = 3600

// values are the values of a panel, by the name of each line.
type values map[string]value

// rates returns the values for counters that increased by these numbers.
func rates(increases map[string]float64) values {
	v := make(values)
	for name, increase := range increases {
		v[name] = exactly(increase / window)
	}
	return v
}

// A value lies between two numbers.
type value struct{ from, to float64 }

func between(from, to float64) value { return value{from, to} }

func exactly(v float64) value { return value{v - 1e-9*v, v + 1e-9*v} }

func (v value) has(x float64) bool { return v.from <= x && x <= v.to }

// variables replaces the variables of the dashboard, as Grafana does after a choice.
var variables = strings.NewReplacer("$job", "(sendq)", "$instance", "(a|b|behind|cut)", "$__rate_interval", fmt.Sprint(window, "s"))

// The two kinds of panels.
const (
	panelsOfWriters = false
	panelsOfRelays  = true
)

// requireShown compares all panels of a kind with the values by title.
func (p *monitored) requireShown(t *testing.T, ofRelays bool, want map[string]values) {
	t.Helper()
	titles := 0
	for _, panel := range panels(t) {
		if len(panel.Targets) == 0 || strings.Contains(panel.Targets[0].Expr, "sendq_relay_") != ofRelays {
			continue
		}
		titles++
		got := make(map[string]float64)
		for _, target := range panel.Targets {
			query := variables.Replace(target.Expr)
			require.NotContains(t, query, "$")
			for _, s := range p.Query(t, query, p.at) {
				name := regexp.MustCompile(`{{\w+}}`).ReplaceAllStringFunc(target.LegendFormat, func(label string) string {
					return s.Labels[strings.Trim(label, "{}")]
				})
				require.NotContains(t, got, name, panel.Title)
				got[name] = s.Value
			}
		}
		require.Len(t, got, len(want[panel.Title]), "%s: %v", panel.Title, got)
		for name, v := range want[panel.Title] {
			require.Contains(t, got, name, panel.Title)
			assert.True(t, v.has(got[name]), "%s: %s: shown %v, want %v", panel.Title, name, got[name], v)
		}
	}
	require.Len(t, want, titles)
}

// requireVariables requires the choices that the dashboard offers for its variables.
func (p *monitored) requireVariables(t *testing.T, want map[string][]string) {
	t.Helper()
	var parsed struct {
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	require.NoError(t, json.Unmarshal(dashboard, &parsed))
	got := make(map[string][]string)
	for _, v := range parsed.Templating.List {
		if v.Type != "query" {
			continue
		}
		match := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(variables.Replace(v.Query))
		require.NotNil(t, match, v.Query)
		var choices []string
		p.Get(t, "label/"+match[2]+"/values", url.Values{"match[]": {match[1]}}, &choices)
		got[v.Name] = choices
	}
	require.Equal(t, want, got)
}

// alerts returns the alerts whose condition holds at the time of the scrape. On a slow machine that
// may include the age of the backlog.
func (p *monitored) alerts(t *testing.T) (active []string) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Query, LastError string }
		}
	}
	p.Get(t, "rules", nil, &data)
	rules := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			require.Empty(t, r.LastError, r.Name)
			rules++
			if len(p.Query(t, r.Query, p.at)) > 0 {
				active = append(active, r.Name)
			}
		}
	}
	require.Equal(t, len(alerts(t)), rules)
	return active
}
