package sendq_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
)

// serveResumable serves one connection. Its first line is a name and how many lines the client has
// received under that name so far, such as "bob 0" at first. A real server also asks for a key or a
// password, because whoever says the name gets the lines.
func serveResumable(broker *sendq.Broker, conn net.Conn) {
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 1 << 20, MaxPending: 256 << 10})
	defer w.Close()
	lines := bufio.NewScanner(conn)
	lines.Scan()
	var name string
	var received int64
	if _, err := fmt.Sscan(lines.Text(), &name, &received); err != nil {
		fmt.Fprintln(w, "error:", err)
		return
	}
	answer := func(r sendq.Resumed) []byte { return fmt.Appendf(nil, "missed %d\n", r.Missed) }
	_, err := broker.Resume(context.Background(), name, w, received, answer)
	if errors.Is(err, sendq.ErrWrongCount) {
		fmt.Fprintln(w, "error:", err)
	}
	if err != nil {
		return // the client will ask again
	}
	for lines.Scan() && w.Err() == nil {
		switch command, argument, _ := strings.Cut(lines.Text(), " "); command {
		case "ack":
			fmt.Sscan(argument, &received)
			w.Acknowledge(received)
		case "quit":
			return // Close ends w, and the name is free
		}
	}
	w.Fail(cmp.Or(lines.Err(), io.EOF)) // no goodbye: the name stays for Linger
}

// printLines prints the first count lines for name, each once, over as many connections as that takes.
func printLines(addr net.Addr, name string, count int64) {
	for received := int64(0); received < count; {
		conn, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			time.Sleep(time.Second) // better: longer after each failure, and at random
			continue
		}
		fmt.Fprintln(conn, name, received)
		lines := bufio.NewReader(io.LimitReader(conn, 40)) // each connection breaks after 40 bytes
		answer, err := lines.ReadString('\n')
		switch {
		case strings.HasPrefix(answer, "error:"):
			conn.Close()
			fmt.Print(answer)
			return // a real client begins again with count 0
		case err == nil && received > 0:
			fmt.Print(answer)
		}
		for err == nil && received < count {
			var line string
			if line, err = lines.ReadString('\n'); err != nil {
				break // a part of a line does not count
			}
			fmt.Print(line)
			if received++; received%2 == 0 { // now and then is enough
				fmt.Fprintln(conn, "ack", received)
			}
		}
		if received == count {
			fmt.Fprintln(conn, "quit")
		}
		conn.Close()
	}
}

// A client counts the lines that it receives. Its connection breaks again and again, in the middle of
// a line, and each line arrives once.
func ExampleBroker_Resume() {
	broker := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Minute})
	defer broker.Close()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveResumable(broker, conn)
		}
	}()

	printed := make(chan struct{})
	go func() {
		defer close(printed)
		printLines(l.Addr(), "bob", 10)
	}()
	for event := range broker.Events(context.Background()) {
		if event.Kind == sendq.EventJoined {
			break
		}
	}
	for i := range 10 {
		if err := broker.Send("bob", fmt.Appendf(nil, "line %d\n", i)); err != nil {
			fmt.Println(err)
		}
	}
	<-printed
	// Output:
	// line 0
	// line 1
	// line 2
	// line 3
	// missed 0
	// line 4
	// line 5
	// line 6
	// line 7
	// missed 0
	// line 8
	// line 9
}

// A Writer without a Broker keeps what its peer has not acknowledged. A program may send that over
// the next connection itself.
func ExampleWriter_Acknowledge() {
	conn, peer := dialed()
	defer peer.Close()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 1 << 20})
	for i := range 5 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	w.Flush(context.Background())

	fmt.Println(w.Acknowledge(2), "kept:", w.Stats().Kept)
	fmt.Println(w.Acknowledge(6))
	w.Fail(io.EOF) // the connection breaks; on the next one, the peer says that it has 4
	fmt.Printf("%q\n", slices.Collect(w.UndeliveredAfter(4)))
	// Output:
	// <nil> kept: 3
	// sendq: wrong count of received messages: 6, and 5 were written
	// ["line 4\n"]
}
