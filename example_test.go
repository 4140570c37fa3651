package sendq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

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

// A header and a body are one message, and the caller need not join them.
func ExampleWriter_WriteParts() {
	conn, peer := dialed()
	defer peer.Close()
	w := sendq.NewWriter(conn, nil)
	body := []byte("hello")

	var header [4]byte
	binary.BigEndian.PutUint32(header[:], uint32(len(body)))
	w.WriteParts(header[:], body)
	w.Close()

	received, _ := io.ReadAll(peer)
	fmt.Printf("%q\n", received)
	// Output: "\x00\x00\x00\x05hello"
}

// An acknowledgement is never dropped, although the data around it may be.
func ExampleWriter_WriteAlways() {
	conn, peer := net.Pipe() // a peer that does not read yet
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxMessages: 2, Overflow: sendq.DropOldest})
	w.WriteString("data 1\n")

	w.WriteAlways([]byte("ack 7\n"))
	w.WriteString("data 2\n")
	fmt.Println("dropped:", w.Stats().Dropped)

	go w.Close()
	received, _ := io.ReadAll(peer)
	fmt.Println(strings.Contains(string(received), "ack 7"))
	// Output:
	// dropped: 1
	// true
}

// A pong does not wait for the data that is queued.
func ExampleWriter_WriteUrgent() {
	conn, peer := net.Pipe() // a peer that does not read yet
	w := sendq.NewWriter(conn, nil)
	w.Write(make([]byte, 1<<20)) // the connection may have begun to take this
	w.WriteString("data\n")
	w.WriteUrgent([]byte("pong\n"))

	go w.Close()
	received, _ := io.ReadAll(peer)
	fmt.Println(bytes.Index(received, []byte("pong")) < bytes.Index(received, []byte("data")))
	// Output: true
}

// Flush waits until the connection has taken the message.
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

// Close delivers what is queued. If the peer does not read in time, Close says what is undelivered.
func ExampleWriter_Close() {
	conn, _ := net.Pipe() // a peer that never reads
	w := sendq.NewWriter(conn, &sendq.WriterOptions{CloseTimeout: 100 * time.Millisecond})
	w.WriteString("goodbye\n")

	err := w.Close()
	fmt.Println(err)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// sendq: undelivered messages: 1 (8 bytes): CloseTimeout of 100ms exceeded: context deadline exceeded
	// true
}

// Shutdown is Close with a context, such as that of a whole service that stops.
func ExampleWriter_Shutdown() {
	conn, peer := dialed()
	defer peer.Close()
	go io.Copy(io.Discard, peer)
	w := sendq.NewWriter(conn, nil)
	w.WriteString("goodbye\n")

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(w.Shutdown(ctx))
	// Output: <nil>
}

// Whoever closes many connections need not wait for each.
func ExampleWriter_CloseWith() {
	conn, peer := dialed()
	defer peer.Close()
	w := sendq.NewWriter(conn, nil)
	w.WriteString("hello\n")
	if err := w.CloseWith([]byte("the server restarts\n")); err != nil {
		fmt.Println("closed before:", err)
	}

	received, _ := io.ReadAll(peer)
	fmt.Printf("%s", received)
	// Output:
	// hello
	// the server restarts
}

// A client that reads too slowly learns why it is disconnected.
func ExampleWriterOptions_farewell() {
	conn, peer := net.Pipe() // a peer that does not read yet
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxMessages: 2,
		Farewell:    func(slow error) []byte { return []byte("ERROR :" + slow.Error() + "\n") },
	})
	for w.Err() == nil {
		w.WriteString("PRIVMSG #go :hello\n")
	}

	received, _ := io.ReadAll(peer)
	fmt.Printf("%s", received[bytes.Index(received, []byte("ERROR")):])
	// Output: ERROR :sendq: slow consumer: MaxMessages of 2 exceeded: 2 pending
}

// A price is worth nothing after a while, but its reader is not cut off.
func ExampleWriterOptions_expire() {
	conn, _ := net.Pipe() // a peer that does not read
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxAge: 20 * time.Millisecond, Expire: true})
	defer w.CloseNow()
	for w.Stats().Dropped == 0 {
		w.WriteString("price\n")
		time.Sleep(time.Millisecond)
	}
	fmt.Println("Err:", w.Err())
	// Output: Err: <nil>
}

// These limits suit a server of many clients. Some clients are slow, and some vanish.
func ExampleWriterOptions() {
	budget := sendq.NewBudget(1 << 30) // for all clients together
	conn, peer := dialed()
	defer peer.Close()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxPending:   8 << 20,          // a client is disconnected with 8 MiB unread
		WriteTimeout: 30 * time.Second, // or when its machine takes nothing for so long
		Budget:       budget,           // or if it has the largest backlog when all have 1 GiB
	})
	go io.Copy(io.Discard, peer)
	w.WriteString("hello\n")
	fmt.Println(w.Close())
	// Output: <nil>
}

// A client may have three messages pending. MaxPending bounds their memory, because one message may
// have any size.
func ExampleWriterOptions_maxMessages() {
	conn, _ := net.Pipe() // a peer that never reads
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxMessages: 3, MaxPending: 1 << 20})
	for i := range 4 {
		_, err := fmt.Fprintf(w, "message %d\n", i)
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// sendq: Writer has ended: slow consumer: MaxMessages of 3 exceeded: 3 pending
}

// A dashboard needs the newest figures. If its reader stalls, the oldest ones are dropped.
func ExampleOverflow() {
	conn, peer := net.Pipe() // whoever writes waits for the reader
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxPending: 3 * (2 + 64), // three messages of two bytes; each counts 64 bytes more
		Overflow:   sendq.DropOldest,
	})
	for i := range 6 {
		fmt.Fprintf(w, "%d\n", i)
	}
	fmt.Println("dropped:", w.Stats().Dropped)
	go w.Close()
	received, _ := io.ReadAll(peer)
	fmt.Printf("%s", received[len(received)-4:]) // the oldest that is left may be 0, if it was begun, or 3
	// Output:
	// dropped: 3
	// 4
	// 5
}

// Each Write of this connection is one message to its peer, as on a WebSocket.
func ExampleWriterOptions_messageFramed() {
	conn, peer := net.Pipe() // a Read returns one Write, if it is not longer
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true})
	w.WriteString("one")
	w.WriteString("two")
	go w.Close()

	message := make([]byte, 100)
	for {
		n, err := peer.Read(message)
		if err != nil {
			return
		}
		fmt.Printf("%s\n", message[:n])
	}
	// Output:
	// one
	// two
}

// A Tally sums up Writers that no Broker knows.
func ExampleTally() {
	var tally sendq.Tally
	for range 3 {
		conn, peer := dialed()
		defer peer.Close()
		go io.Copy(io.Discard, peer)
		w := sendq.NewWriter(conn, nil)
		tally.Add(w)
		w.WriteString("hello\n")
		w.Close()
	}
	s := tally.Stats()
	fmt.Println(s.Written, "messages,", s.WrittenBytes, "bytes, living Writers:", s.Writers)
	// Output: 3 messages, 18 bytes, living Writers: 0
}

// A service sends 64 MiB to everybody with a Budget of 32 MiB. It loses the one stuck recipient,
// and the other gets everything.
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
	for range 64 {
		broker.Broadcast(message)
		// The sender keeps pace with the peers that read.
		healthy.WaitPending(context.Background(), 8<<20)
	}

	fmt.Println(healthy.Close(), healthy.Stats().WrittenBytes>>20, "MiB")
	fmt.Println("slow consumer:", errors.Is(stuck.Err(), sendq.ErrSlowConsumer))
	// Output:
	// <nil> 64 MiB
	// slow consumer: true
}

func ExampleBroker() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	defer peer.Close()
	broker.Register("bob", sendq.NewWriter(conn, nil))

	fmt.Println(broker.Send("bob", []byte("hi\n")))
	fmt.Println(broker.Send("alice", []byte("hi\n")))
	broker.Shutdown(context.Background()) // delivers, and ends bob's Writer

	received, _ := io.ReadAll(peer)
	fmt.Printf("bob got %q\n", received)
	// Output:
	// <nil>
	// sendq: unknown name: "alice"
	// bob got "hi\n"
}

// A room exists while it has members.
func ExampleRoom() {
	broker := sendq.NewBroker(nil)
	defer broker.CloseNow()
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

// The Report says who got it and who did not.
func ExampleBroker_SendTo() {
	broker := sendq.NewBroker(nil)
	defer broker.CloseNow()
	conn, peer := dialed()
	defer peer.Close()
	broker.Register("bob", sendq.NewWriter(conn, nil))

	report := broker.SendTo([]string{"bob", "alice"}, []byte("hi\n"))
	fmt.Println("accepted:", report.Accepted)
	for _, refused := range report.Refused {
		fmt.Printf("%s did not get it: %v\n", refused.Name, refused.Err)
	}
	// Output:
	// accepted: 1
	// alice did not get it: sendq: unknown name: "alice"
}

// Bob's connection hangs, and he logs in again. The new connection gets the messages that the old
// one did not.
func ExampleNamePolicy_takeover() {
	broker := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	hanging, _ := net.Pipe() // nobody reads
	old := sendq.NewWriter(hanging, nil)
	broker.Register("bob", old)
	broker.Send("bob", []byte("one\n"))
	broker.Send("bob", []byte("two\n"))

	conn, peer := dialed()
	defer peer.Close()
	broker.Register("bob", sendq.NewWriter(conn, nil))
	fmt.Println(old.Err())
	broker.Send("bob", []byte("three\n"))
	broker.Shutdown(context.Background())

	received, _ := io.ReadAll(peer)
	fmt.Printf("%s", received)
	// Output:
	// sendq: name taken over by another Writer
	// one
	// two
	// three
}

// Bob has a phone and a laptop. Both get what is sent to him.
func ExampleNamePolicy_attach() {
	broker := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
	var devices []net.Conn
	for range 2 {
		conn, device := dialed()
		defer device.Close()
		broker.Register("bob", sendq.NewWriter(conn, nil))
		devices = append(devices, device)
	}
	broker.Send("bob", []byte("hi\n"))
	broker.Close()

	for _, device := range devices {
		received, _ := io.ReadAll(device)
		fmt.Printf("%q\n", received)
	}
	// Output:
	// "hi\n"
	// "hi\n"
}

// Undelivered messages come back, for example to be stored.
func ExampleBrokerOptions_onUndelivered() {
	broker := sendq.NewBroker(&sendq.BrokerOptions{
		OnUndelivered: func(name string, messages iter.Seq[[]byte], cause error) {
			for message := range messages {
				fmt.Printf("for %s: %q: %v\n", name, message, cause)
			}
		},
	})
	hanging, _ := net.Pipe() // nobody reads
	bob := sendq.NewWriter(hanging, &sendq.WriterOptions{MaxPending: 160})
	broker.Register("bob", bob)
	broker.Send("bob", []byte("one"))
	broker.Send("bob", []byte("two"))
	err := broker.Send("bob", []byte("three"))
	broker.Shutdown(context.Background()) // returns when all that came back has been handed over
	fmt.Println(errors.Is(err, sendq.ErrSlowConsumer))
	// Output:
	// for bob: "one": sendq: slow consumer: MaxPending of 160 bytes exceeded: 134 pending, 69 more
	// for bob: "two": sendq: slow consumer: MaxPending of 160 bytes exceeded: 134 pending, 69 more
	// true
}

// A reader passes on the messages of one read together, and wakes each recipient once.
func ExampleBatch() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	defer peer.Close()
	bob := sendq.NewWriter(conn, nil)
	broker.Register("bob", bob)
	broker.Room("gophers").Join("bob")

	batch := broker.NewBatch()
	for line := range strings.Lines("one\ntwo\nthree\n") {
		batch.Publish("gophers", []byte(line))
	}
	batch.Send("bob", []byte("and one for you\n"))
	fmt.Println("accepted:", batch.Flush().Accepted)

	bob.Flush(context.Background())
	fmt.Println("writes:", bob.Stats().Writes)
	broker.Shutdown(context.Background())
	// Output:
	// accepted: 4
	// writes: 1
}

// Events reports who is here, from the first name on.
func ExampleBroker_Events() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	defer peer.Close()
	bob := sendq.NewWriter(conn, nil)
	broker.Register("bob", bob)
	broker.Room("gophers").Join("bob")

	for event := range broker.Events(context.Background()) {
		fmt.Println(event.Kind, strings.TrimSpace(event.Name+" "+event.Room))
		switch event.Kind {
		case sendq.EventRoomJoined:
			bob.CloseNow()
		case sendq.EventLeft:
			fmt.Println(event.Cause)
			return
		}
	}
	// Output:
	// Joined bob
	// RoomJoined bob gophers
	// RoomLeft bob gophers
	// Left bob
	// sendq: closed
}

// Package expvar serves the figures of a Broker at /debug/vars, beside those of the program. A
// Tally does the same for Writers without a Broker.
func ExampleBroker_Stats() {
	broker := sendq.NewBroker(nil)
	expvar.Publish("sendq", expvar.Func(func() any { return broker.Stats() }))

	conn, peer := dialed()
	defer peer.Close()
	broker.Register("bob", sendq.NewWriter(conn, nil))
	broker.Broadcast([]byte("bye\n"))
	broker.Shutdown(context.Background())

	var published sendq.BrokerStats
	json.Unmarshal([]byte(expvar.Get("sendq").String()), &published)
	fmt.Println("written:", published.Written, "delivered by:", published.Ends.Delivered.Writers)
	// Output: written: 1 delivered by: 1
}

// A late member first gets the last messages.
func ExampleRoom_JoinReplay() {
	broker := sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: 100})
	room := broker.Room("gophers")
	peers := make(map[string]net.Conn)
	for _, name := range []string{"alice", "bob"} {
		conn, peer := dialed()
		defer peer.Close()
		broker.Register(name, sendq.NewWriter(conn, nil))
		peers[name] = peer
	}

	room.Join("alice")
	room.Publish([]byte("one\n"))
	room.Publish([]byte("two\n"))
	fmt.Println(room.JoinReplay("bob", 1))
	room.Publish([]byte("three\n"))
	broker.Shutdown(context.Background())

	received, _ := io.ReadAll(peers["bob"])
	fmt.Printf("%s", received)
	// Output:
	// 1 <nil>
	// two
	// three
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
