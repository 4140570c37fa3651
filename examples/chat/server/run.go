package server

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

// AddFlags lets the command line choose options: it adds -addr, -takeover and -replay to f.
func (o *Options) AddFlags(f *flag.FlagSet) {
	f.StringVar(&o.Addr, "addr", "127.0.0.1:8080", "serve on this `address`; port 0 takes a free one")
	f.BoolVar(&o.Takeover, "takeover", false, "let a second login take the name over, and get what the first has missed")
	f.IntVar(&o.Replay, "replay", 0, "give those who join a room its last `N` lines")
}

// Run says on standard error where it listens, and serves until the first SIGINT or SIGTERM. A
// second one ends the process at once.
func Run(o Options) error {
	if o.Replay < 0 {
		return fmt.Errorf("-replay %d is negative", o.Replay)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", l.Addr())
	return New(o).Serve(ctx, l)
}
