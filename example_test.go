package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/sendq-go/sendq"
)

// Two goroutines talk on one connection, and their lines never mix.
func ExampleWriter() {
	conn, peer := dialed()
	defer peer.Close()
	w := sendq.NewWriter(conn, nil)

	var senders sync.WaitGroup
	senders.Go(func() { w.WriteString("foo\n") })
	senders.Go(func() { w.WriteString("bar\n") })
	senders.Wait()
	if err := w.Close(); err != nil { // delivers both
		fmt.Println("not delivered:", err)
	}

	received, _ := io.ReadAll(peer)
	fmt.Println(string(received) == "foo\nbar\n" || string(received) == "bar\nfoo\n")
	// Output: true
}

// Flush is for those who must know that a message has gone out.
func ExampleWriter_Flush() {
	conn, peer := dialed()
	defer peer.Close()
	go io.Copy(io.Discard, peer)
	w := sendq.NewWriter(conn, nil)
	defer w.Close()

	w.WriteString("now or never\n")
	if err := w.Flush(context.Background()); err != nil {
		fmt.Println("not written:", err)
		return
	}
	fmt.Println("written:", w.Stats().Written)
	// Output: written: 1
}

// A Writer that ends early hands back what it could not write.
func ExampleWriter_Undelivered() {
	conn, _ := net.Pipe() // a peer that never reads
	w := sendq.NewWriter(conn, nil)
	w.WriteString("one")
	w.WriteString("two")
	w.CloseNow()

	for message := range w.Undelivered() {
		fmt.Printf("%s\n", message)
	}
	_, err := w.WriteString("three")
	fmt.Println(errors.Is(err, net.ErrClosed))
	// Output:
	// one
	// two
	// true
}

// A service that sends 256 MiB to everybody, one of whom is stuck, with 32 MiB for what
// is pending: the stuck one is let go, and the other gets all.
func ExampleBudget() {
	budget := sendq.NewBudget(32 << 20)
	opts := &sendq.WriterOptions{Budget: budget}
	stuckConn, _ := net.Pipe() // nobody reads
	stuck := sendq.NewWriter(stuckConn, opts)
	conn, peer := dialed()
	defer peer.Close()
	go io.Copy(io.Discard, peer)
	healthy := sendq.NewWriter(conn, opts)

	broker := sendq.NewBroker(nil)
	broker.Register("stuck", stuck)
	broker.Register("healthy", healthy)
	message := make([]byte, 1<<20)
	for range 256 {
		broker.Broadcast(message)
		// The source of the messages keeps pace with those who read.
		healthy.WaitPending(context.Background(), 8<<20)
	}

	fmt.Println(healthy.Close(), healthy.Stats().WrittenBytes>>20, "MiB")
	fmt.Println("slow consumer:", errors.Is(stuck.Err(), sendq.ErrSlowConsumer))
	// Output:
	// <nil> 256 MiB
	// slow consumer: true
}

func ExampleBroker() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	defer peer.Close()
	broker.Register("bob", sendq.NewWriter(conn, nil))

	fmt.Println(broker.Send("bob", []byte("hi\n")))
	fmt.Println(broker.Send("alice", []byte("hi\n")))
	broker.Close() // delivers, and ends bob's Writer

	received, _ := io.ReadAll(peer)
	fmt.Printf("bob got %q\n", received)
	// Output:
	// <nil>
	// sendq: unknown name: "alice"
	// bob got "hi\n"
}

// A room needs no making: it is there while it has members.
func ExampleRoom() {
	broker := sendq.NewBroker(nil)
	defer broker.Close()
	peers := make(map[string]net.Conn)
	for _, name := range []string{"alice", "bob", "carol"} {
		conn, peer := dialed()
		defer peer.Close()
		broker.Register(name, sendq.NewWriter(conn, nil))
		peers[name] = peer
	}

	room := broker.Room("gophers")
	room.Join("alice")
	room.Join("bob")
	fmt.Println("members:", slices.Sorted(room.Members()))
	fmt.Println("accepted by", room.PublishFrom("bob", []byte("hi\n")))

	line := make([]byte, 3)
	io.ReadFull(peers["alice"], line)
	fmt.Printf("alice got %q\n", line)
	// Output:
	// members: [alice bob]
	// accepted by 1
	// alice got "hi\n"
}

// dialed returns the two ends of a TCP connection.
func dialed() (conn, peer net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	if peer, err = net.Dial("tcp", l.Addr().String()); err != nil {
		panic(err)
	}
	if conn, err = l.Accept(); err != nil {
		panic(err)
	}
	return conn, peer
}
