// Natsserver is the NATS server of natsrelay's tests. It takes the flags of nats-server, prints its
// URL when it is ready, and shuts down when its input ends, so it does not outlive the tests.
//
// It is a module of its own because otherwise nats-server would be in the module graph of everyone
// who imports natsrelay.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	flags := flag.NewFlagSet("natsserver", flag.ExitOnError)
	opts, err := server.ConfigureOptions(flags, os.Args[1:], nil, flags.Usage, nil)
	if err != nil {
		log.Fatal(err)
	}
	opts.NoSigs = true
	s, err := server.NewServer(opts)
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	go func() {
		for !isReady(s) {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println(s.ClientURL())
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	s.WaitForShutdown()
}

// isReady reports whether s accepts connections and is healthy. In a cluster with JetStream, a
// healthy server has a leader.
func isReady(s *server.Server) bool {
	return s.ReadyForConnections(time.Second) && s.Healthz(nil).Status == "ok"
}
