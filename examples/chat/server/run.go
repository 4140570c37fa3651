package server

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// AddFlags lets the command line choose options: it adds flags for them to f. What the options
// are by then is the default.
func (o *Options) AddFlags(f *flag.FlagSet) {
	f.StringVar(&o.Addr, "addr", cmp.Or(o.Addr, "127.0.0.1:8080"), "serve on this `address`; port 0 takes a free one")
	f.BoolVar(&o.Takeover, "takeover", o.Takeover, "let a second login take the name over, and get what the first has missed")
	f.IntVar(&o.Replay, "replay", o.Replay, "give those who join a room its last `N` lines")
	f.IntVar(&o.PerAddress, "per-address", o.PerAddress, "let an IP address have at most `N` connections; 0: any number")
	f.IntVar(&o.Rate, "rate", o.Rate, "let a user say at most `N` lines a second, after a burst of four seconds' worth; 0: any number")
	f.StringVar(&o.tls.file, "tls-cert", "", "serve over TLS, with the certificate in this `file`; -tls-key goes with it")
	f.StringVar(&o.tls.key, "tls-key", "", "the key of that certificate is in this `file`")
	f.BoolVar(&o.tls.selfSigned, "tls-self-signed", false, "serve over TLS, with a certificate made at the start, to try it")
}

// check tells what makes no sense of what the flags have said.
func (o *Options) check() error {
	for flag, n := range map[string]int{"-replay": o.Replay, "-per-address": o.PerAddress, "-rate": o.Rate} {
		if n < 0 {
			return fmt.Errorf("%s %d is negative", flag, n)
		}
	}
	return nil
}

// Run says on standard error where it listens, and serves until the first SIGINT or SIGTERM. A
// second one ends the process at once.
func Run(o Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	l, err := o.Listen(o.Addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", l.Addr())
	return New(o).Serve(ctx, l)
}
