// Command chat is a chat server, and a client for it, built on sendq.
//
//	go run ./examples/chat                               # serves on 127.0.0.1:8080
//	go run ./examples/chat -takeover -replay 20          # the same, for users who come back
//	go run ./examples/chat -connect 127.0.0.1:8080 -name carol
//
// Any program that sends lines will do as a client, such as nc 127.0.0.1 8080; the
// first line is the login. The server is the place to see how a Writer and a Broker
// work together: start reading at server.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "serve on this `address`; port 0 takes a free one")
	connect := flag.String("connect", "", "be a client of the server at this `address`")
	name := flag.String("name", "", "log in as this `user`, with -connect")
	var o options
	flag.BoolVar(&o.takeover, "takeover", false, "let a second login take the name over, and get what the first has missed")
	flag.IntVar(&o.replay, "replay", 0, "give those who join a room its last `N` lines")
	flag.Parse()

	var err error
	switch {
	case flag.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q; -help lists the flags", flag.Arg(0))
	case *connect != "" && *name == "":
		err = fmt.Errorf("-connect needs a login too: -name carol")
	case *connect != "":
		err = runClient(*connect, *name, os.Stdin, os.Stdout)
	case *name != "":
		err = fmt.Errorf("-name goes with -connect ADDR")
	case o.replay < 0:
		err = fmt.Errorf("-replay %d is negative", o.replay)
	default:
		err = runServer(*addr, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// runServer serves until the first SIGINT or SIGTERM. A second one ends the process
// at once.
func runServer(addr string, o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", l.Addr())
	return newServer(o, slog.Default()).serve(ctx, l)
}
