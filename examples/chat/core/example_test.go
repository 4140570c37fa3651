package core_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
)

// A whole chat server.
func ExampleServer() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		panic(err)
	}
	s := core.Server{Broker: sendq.NewBroker(nil)}
	fmt.Println(s.Serve(ctx, l))
}
