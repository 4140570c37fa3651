package sendqtest_test

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// serve is the code under test: it sends each line of a client to everyone else.
func serve(broker *sendq.Broker, conn net.Conn) {
	w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: time.Minute})
	defer w.Close()
	lines := bufio.NewScanner(conn)
	if !lines.Scan() {
		return
	}
	name := lines.Text()
	if broker.Register(name, w) != nil {
		return
	}
	for lines.Scan() && w.Err() == nil {
		broker.BroadcastFrom(name, fmt.Appendf(nil, "%s: %s\n", name, lines.Text()))
	}
}

// testServe tests that the server loses a client that stalls, and no other.
func testServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := sendq.NewBroker(nil)
		alice, bob := sendqtest.NewConn(), sendqtest.NewConn()
		go serve(broker, alice)
		go serve(broker, bob)
		alice.Feed("alice\n")
		bob.Feed("bob\n")
		synctest.Wait() // until both are registered

		bob.Feed("hi\n")
		synctest.Wait()
		lines, rest := sendqtest.Messages(alice.Bytes(), bufio.ScanLines)
		if len(lines) != 1 || lines[0] != "bob: hi" || rest != "" {
			t.Errorf("alice got %q and %q", lines, rest)
		}

		bob.Stall()
		alice.Feed("hello\n")
		time.Sleep(2 * time.Minute) // takes no time, because the bubble has its own clock
		if _, ok := broker.Lookup("bob"); ok {
			t.Error("bob is still here")
		}
		if _, ok := broker.Lookup("alice"); !ok {
			t.Error("alice is gone")
		}
		alice.Hangup()
		bob.Hangup()
	})
}

// The function testServe is the body of a test.
func Example() {
	var t *testing.T // the argument of TestServe
	testServe(t)
}
