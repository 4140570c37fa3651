package main

import (
	"fmt"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

type transport struct{ relay.Transport }

func (transport) Start(relay.Node) string {
	fmt.Println("hello")
	return "node"
}

func main() {
	sendq.NewBroker(&sendq.BrokerOptions{Relay: transport{}})
}
