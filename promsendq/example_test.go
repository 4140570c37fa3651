package promsendq_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/promsendq"
)

// This is what Prometheus gets from a program with a Broker.
func ExampleNewBrokerCollector() {
	broker := sendq.NewBroker(nil)
	broker.Register("bob", sendq.NewWriter(conn{}, nil))

	registry := prometheus.NewRegistry()
	registry.MustRegister(promsendq.NewBrokerCollector(broker))
	metrics := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer metrics.Close()

	answer, err := metrics.Client().Get(metrics.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "sendq_names") || strings.HasPrefix(line, "sendq_writers") {
			fmt.Print(line)
		}
	}
	// Output:
	// sendq_names 1
	// sendq_names_away 0
	// sendq_writers 1
}
