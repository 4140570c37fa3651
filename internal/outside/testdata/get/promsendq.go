package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/promsendq"
)

func main() {
	prometheus.MustRegister(promsendq.NewBrokerCollector(sendq.NewBroker(nil)))
	fmt.Println("hello")
}
