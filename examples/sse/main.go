// Command sse serves server-sent events: what one client posts, all others see at once.
//
//	go run ./examples/sse
//	curl -N http://127.0.0.1:8080/events           # events, without an end
//	curl -d 'hello' http://127.0.0.1:8080/events   # posts one
//
// http://127.0.0.1:8080/ is a page that does both. A returning client gets the
// events it has missed.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "serve at this `address`; port 0 takes a free one")
	flag.Parse()
	err := fmt.Errorf("unexpected argument %q; -help lists the flags", flag.Arg(0))
	if flag.NArg() == 0 {
		err = run(*addr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sse:", err)
		os.Exit(1)
	}
}

// run serves until the first SIGINT or SIGTERM. A second signal ends the process at once.
func run(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", l.Addr())
	f := newFeed()
	go f.keepAlive()
	server := f.server()
	stopped := make(chan error)
	context.AfterFunc(ctx, func() {
		bound, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		go f.broker.Shutdown(bound)       // delivers, and ends the streams
		stopped <- server.Shutdown(bound) // waits for them
	})
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return <-stopped
}
