package lab

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A Prometheus is a running server.
type Prometheus struct{ url string }

// StartPrometheus starts prometheus with this text as its configuration.
func StartPrometheus(t testing.TB, config string) *Prometheus {
	t.Helper()
	path, dir := Find(t, "prometheus"), t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	address := net.JoinHostPort("127.0.0.1", freePort(t))
	p := &Prometheus{"http://" + address}
	start(t, p.isReady, path, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	return p
}

func (p *Prometheus) isReady() bool {
	answer, err := http.Get(p.url + "/-/ready")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// Get calls a function of the HTTP API and parses the data of its answer.
func (p *Prometheus) Get(t testing.TB, path string, parameters url.Values, data any) {
	t.Helper()
	answer, err := http.Get(p.url + "/api/v1/" + path + "?" + parameters.Encode())
	require.NoError(t, err)
	defer answer.Body.Close()
	parsed := struct {
		Error string
		Data  any
	}{Data: data}
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&parsed))
	require.Empty(t, parsed.Error, parameters)
}

// A Sample is one element of a query's result.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates a query that results in a vector, at a time in seconds, or now if that is empty.
func (p *Prometheus) Query(t testing.TB, query, at string) (samples []Sample) {
	t.Helper()
	parameters := url.Values{"query": {query}}
	if at != "" {
		parameters.Set("time", at)
	}
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any // time and value
		}
	}
	p.Get(t, "query", parameters, &data)
	for _, r := range data.Result {
		v, err := strconv.ParseFloat(r.Value[1].(string), 64)
		assert.NoError(t, err)
		samples = append(samples, Sample{r.Metric, v})
	}
	return samples
}
