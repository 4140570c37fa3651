package sendq_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/sendq-go/sendq"
)

// Any goroutine sends to a response without an end. examples/sse is a complete program.
func ExampleStreamConn() {
	broker := sendq.NewBroker(nil)
	registered := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := sendq.NewWriter(sendq.StreamConn(struct {
			io.Writer
			*http.ResponseController
		}{rw, http.NewResponseController(rw)}), nil)
		defer w.Close() // before the handler returns, because rw must not be used after that
		broker.Register("bob", w)
		close(registered)
		select {
		case <-w.Done():
		case <-r.Context().Done(): // the client has gone
		}
	}))
	defer server.Close()
	go func() {
		<-registered
		broker.Broadcast([]byte("hello\n"))
		broker.Close()
	}()

	response, err := http.Get(server.URL)
	if err != nil {
		panic(err)
	}
	received, err := io.ReadAll(response.Body)
	fmt.Printf("%q %v\n", received, err)
	// Output: "hello\n" <nil>
}

// Each message is one call. This one hands messages to another goroutine.
func ExampleMessageConn() {
	messages, closed := make(chan string), make(chan struct{})
	conn := sendq.MessageConn(func(p []byte) error {
		select {
		case messages <- string(p): // a copy, because p is not ours
			return nil
		case <-closed:
			return io.ErrClosedPipe
		}
	}, func() error {
		close(closed)
		return nil
	})
	w := sendq.NewWriter(conn, nil)
	w.WriteString("one")
	w.WriteString("two")
	fmt.Println(<-messages, <-messages)
	fmt.Println(w.Close())
	// Output:
	// one two
	// <nil>
}

// A reader tells why reading has ended.
func ExampleWriter_Closing() {
	conn, peer := dialed()
	w := sendq.NewWriter(conn, nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, conn) // the work of the reader
		if w.Closing() {
			fmt.Println("this side has closed:", w.Err())
		} else {
			fmt.Println("the peer has closed")
		}
	}()
	peer.Close()
	<-ended
	w.Close()
	// Output: the peer has closed
}
