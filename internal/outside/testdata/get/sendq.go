package main

import (
	"net"
	"os"

	"github.com/sendq-go/sendq"
)

func main() {
	conn, peer := net.Pipe()
	broker := sendq.NewBroker(nil)
	broker.Register("bob", sendq.NewWriter(conn, nil))
	broker.Send("bob", []byte("hello\n"))
	go broker.Close()
	os.Stdout.ReadFrom(peer)
}
