package server

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// AddFlags adds flags for the options to f. Their current values are the defaults.
func (o *Options) AddFlags(f *flag.FlagSet) {
	f.StringVar(&o.Addr, "addr", cmp.Or(o.Addr, "127.0.0.1:8080"), "serve on this `address`; port 0 takes a free one")
	f.BoolVar(&o.Takeover, "takeover", o.Takeover, "let a second login take the name over, and get the lines not yet written to the first")
	f.BoolVar(&o.Resume, "resume", o.Resume, "give each user a key to come back with after a broken connection, and to get what has not arrived; takes up to 2 MiB for each user")
	f.DurationVar(&o.Linger, "linger", cmp.Or(o.Linger, linger), "with -resume, keep the login of a user whose connection broke for this `time`, unless the server stops; then it is free, and the key is worth nothing")
	f.IntVar(&o.Replay, "replay", o.Replay, "send the last `N` lines of a room to each new member")
	f.IntVar(&o.PerAddress, "per-address", o.PerAddress, "allow at most `N` connections from an IP address; 0: any number")
	f.IntVar(&o.Rate, "rate", o.Rate, "allow at most `N` lines a second from a user, after a burst of 4N; 0: any number")
	f.DurationVar(&o.Drain, "drain", o.Drain, "end the sessions over this `time` when the server stops; 0: all at once")
	f.StringVar(&o.tls.file, "tls-cert", "", "serve over TLS with the certificate in this `file`; needs -tls-key")
	f.StringVar(&o.tls.key, "tls-key", "", "read the key of the certificate from this `file`")
	f.BoolVar(&o.tls.selfSigned, "tls-self-signed", false, "serve over TLS with a new certificate, for a trial")
}

// check returns an error if a flag has a senseless value.
func (o *Options) check() error {
	for flag, n := range map[string]int{"-replay": o.Replay, "-per-address": o.PerAddress, "-rate": o.Rate} {
		if n < 0 {
			return fmt.Errorf("%s %d is negative", flag, n)
		}
	}
	switch {
	case o.Drain < 0:
		return fmt.Errorf("-drain %v is negative", o.Drain)
	case o.Linger < 0:
		return fmt.Errorf("-linger %v is negative", o.Linger)
	case o.Resume && o.Takeover:
		return errors.New("-resume does not go with -takeover: a login would take a name over without its key")
	}
	return nil
}

// Run prints its address to standard error, and serves until the first SIGINT or SIGTERM. A second
// signal ends the process at once.
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
