package main

import (
	"fmt"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
)

func main() {
	relay, err := natsrelay.Connect("nats://127.0.0.1:1", nil)
	if err != nil { // nobody listens there
		fmt.Println("hello")
		return
	}
	sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})
}
