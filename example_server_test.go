package sendq_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/sendq-go/sendq"
)

// handle serves one connection. Its first line is a name, and each line after it goes to everyone
// else.
func handle(broker *sendq.Broker, conn net.Conn) {
	w := sendq.NewWriter(conn, nil) // from now on, only w writes to conn
	defer w.Close()                 // delivers what is queued, and closes conn
	lines := bufio.NewScanner(conn)
	lines.Scan()
	name := lines.Text()
	if err := broker.Register(name, w); errors.Is(err, sendq.ErrNameTaken) {
		fmt.Fprintf(w, "the name %s is taken\n", name)
		return
	} else if err != nil {
		return // the server is stopping
	}
	fmt.Fprintf(w, "hello %s\n", name)
	for lines.Scan() && w.Err() == nil { // a limit may have ended w, and another client may have the name by now
		broker.BroadcastFrom(name, fmt.Appendf(nil, "%s: %s\n", name, lines.Text()))
	}
}

// A whole server: a Writer for each connection, and a Broker that knows them by name.
func Example() {
	broker := sendq.NewBroker(nil)
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go handle(broker, conn)
		}
	}()

	alice, bob := login(l.Addr(), "alice"), login(l.Addr(), "bob")
	defer alice.Close()
	defer bob.Close()
	fmt.Fprintln(alice, "hi")
	line, _ := bufio.NewReader(bob).ReadString('\n')
	fmt.Print(line)

	l.Close()
	broker.Close() // delivers, ends all Writers, and so all handlers
	// Output:
	// alice: hi
}

// login is a client. It returns when the server has greeted it.
func login(addr net.Addr, name string) net.Conn {
	conn, _ := net.Dial(addr.Network(), addr.String())
	fmt.Fprintln(conn, name)
	io.ReadFull(conn, make([]byte, len("hello \n")+len(name)))
	return conn
}
