package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sendq-go/sendq/examples/chat/server"
)

const (
	// maxPending bounds the bytes queued for a user. Beyond it, the user is disconnected.
	maxPending = 8 << 20

	// shutdownTimeout bounds the requests in progress when the server stops.
	shutdownTimeout = 5 * time.Second
)

func main() {
	o := options{chat: server.Options{Addr: "127.0.0.1:8081", Replay: 20, PerAddress: 100, Rate: 10}}
	o.addFlags(flag.CommandLine)
	flag.Parse()

	err := fmt.Errorf("unexpected argument %q; -help lists the flags", flag.Arg(0))
	if flag.NArg() == 0 {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "webchat:", err)
		os.Exit(1)
	}
}

// options are set by flags.
type options struct {
	chat    server.Options
	http    string
	origins []string
	demo    bool
}

func (o *options) addFlags(f *flag.FlagSet) {
	o.chat.AddFlags(f)
	f.StringVar(&o.http, "http", "127.0.0.1:8080", "serve the page at this `address`; port 0 takes a free one")
	f.Func("origin", "let pages from this `origin`, such as https://example.org, use the chat; may be repeated", func(origin string) error {
		o.origins = append(o.origins, strings.TrimSuffix(origin, "/"))
		return nil
	})
	f.BoolVar(&o.demo, "demo", false, "let users try /stall 30, disconnect users with a backlog of 256 KiB, and let a robot talk while users are stalled")
}

// run serves until the first SIGINT or SIGTERM. A second signal ends the process at once.
func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	g, ctx := errgroup.WithContext(ctx)

	lines, err := o.chat.Listen(o.chat.Addr)
	if err != nil {
		return err
	}
	pages, err := o.chat.Listen(o.http)
	if err != nil {
		return err
	}

	var d *demo
	o.chat.Frame, o.chat.MaxPending = frameOf, maxPending
	if o.demo {
		d = newDemo()
		o.chat.Command, o.chat.MaxPending = d.command, demoMaxPending
	}
	chat := server.New(o.chat)
	s := &site{ctx: ctx, chat: chat, origins: o.origins}
	web := s.server(newStatus(chat, o.chat.MaxPending, d))

	if d != nil {
		if err := addRobot(chat.Broker()); err != nil {
			return err
		}
		g.Go(func() error { return d.runRobot(ctx, chat.Broker()) })
	}
	g.Go(func() error { return chat.Serve(ctx, terminals{lines}) })
	g.Go(func() error { return serveWeb(ctx, web, pages) })
	g.Go(func() error { return s.ping(ctx) })
	scheme := "http"
	if o.chat.IsTLS() {
		scheme = "https"
	}
	fmt.Fprintln(os.Stderr, "listening on", lines.Addr())
	fmt.Fprintf(os.Stderr, "page at %s://%s/\n", scheme, pages.Addr())
	return g.Wait()
}

// serveWeb serves until ctx is done, and then ends the requests in progress.
func serveWeb(ctx context.Context, web *http.Server, l net.Listener) error {
	context.AfterFunc(ctx, func() { l.Close() })
	if err := web.Serve(l); ctx.Err() == nil {
		return err
	}
	bound, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	_ = web.Shutdown(bound)
	return nil
}
