package promnatsrelay_test

import (
	"log"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
	"github.com/sendq-go/sendq/promsendq"
	"github.com/sendq-go/sendq/promsendq/promnatsrelay"
)

// A node exports the metrics of its Broker and of its Relay.
func ExampleNewCollector() {
	relay, err := natsrelay.Connect("nats://127.0.0.1:4222", nil)
	if err != nil {
		log.Fatal(err)
	}
	broker := sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})
	defer broker.Close()
	prometheus.MustRegister(promsendq.NewBrokerCollector(broker), promnatsrelay.NewCollector(relay))
}
