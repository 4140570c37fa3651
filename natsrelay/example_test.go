package natsrelay_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
)

// Each process of the cluster does this. Names and rooms of its Broker are then common to all, and
// the code that sends does not change.
func ExampleConnect() {
	relay, err := natsrelay.Connect("nats://10.0.0.1:4222,nats://10.0.0.2:4222", &natsrelay.Options{
		Cluster: "chat",
		Node:    "chat-eu-1", // a part of the node's name in events and statistics
	}, nats.UserCredentials("/etc/chat/nats.creds"), nats.RootCAs("/etc/chat/nats-ca.pem"))
	if err != nil {
		log.Fatal(err)
	}
	broker := sendq.NewBroker(&sendq.BrokerOptions{
		NamePolicy: sendq.NameTakeover, // the same on all nodes
		Relay:      relay,
	})

	// ... register Writers, and send ...

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := broker.Shutdown(ctx); err != nil { // delivers everything, gives up the names, and closes relay
		log.Print(err)
	}
}

// A health check, for a node that cannot reach the others.
func ExampleRelay_Stats() {
	relay, err := natsrelay.Connect("nats://127.0.0.1:4222", nil)
	if err != nil {
		log.Fatal(err)
	}
	broker := sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})
	defer broker.Close()

	stats := relay.Stats()
	fmt.Println("connected:", stats.Connected)
	for name, node := range stats.Nodes {
		fmt.Printf("%s: gone: %t, waiting: %d bytes\n", name, node.Gone, node.QueuedBytes)
	}
}
