package websocket_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/websocket"
)

// Fifty goroutines write to one connection of gorilla/websocket.
func ExampleGorilla() {
	broker := sendq.NewBroker(nil)
	server := httptest.NewServer(websocket.Gorilla(broker))
	defer server.Close()

	ctx := context.Background()
	alice, _, err := coder.Dial(ctx, server.URL+"?name=alice", nil)
	if err != nil {
		panic(err)
	}
	alice.Write(ctx, coder.MessageText, []byte("hello")) // comes back after she is registered
	_, p, _ := alice.Read(ctx)
	fmt.Println(string(p))

	var senders sync.WaitGroup
	for i := range 50 {
		senders.Go(func() { broker.Send("alice", fmt.Append(nil, i)) })
	}
	senders.Wait()
	ended := make(chan error)
	go func() { ended <- broker.Shutdown(ctx) }()
	n := 0
	for {
		if _, _, err = alice.Read(ctx); err != nil {
			break
		}
		n++
	}
	fmt.Println(n, coder.CloseStatus(err), <-ended)
	// Output:
	// hello
	// 50 StatusNormalClosure <nil>
}

// A message on a connection of coder/websocket is its text.
func ExampleCoder() {
	broker := sendq.NewBroker(nil)
	server := httptest.NewServer(websocket.Coder(broker))
	defer server.Close()

	url := "ws" + strings.TrimPrefix(server.URL, "http")
	alice, _, err := gorilla.DefaultDialer.Dial(url+"?name=alice", nil)
	if err != nil {
		panic(err)
	}
	alice.WriteMessage(gorilla.TextMessage, []byte("hello"))
	_, p, _ := alice.ReadMessage()
	fmt.Println(string(p))

	ended := make(chan error)
	go func() { ended <- broker.Shutdown(context.Background()) }()
	_, _, err = alice.ReadMessage()
	fmt.Println(err, <-ended)
	// Output:
	// hello
	// websocket: close 1000 (normal) <nil>
}

// A message on a connection of gobwas/ws is a frame, the same for all.
func ExampleGobwas() {
	broker := sendq.NewBroker(nil)
	server := httptest.NewServer(websocket.Gobwas(broker))
	defer server.Close()

	ctx := context.Background()
	alice, _, err := coder.Dial(ctx, server.URL+"?name=alice", nil)
	if err != nil {
		panic(err)
	}
	alice.Write(ctx, coder.MessageText, []byte("hello"))
	_, p, _ := alice.Read(ctx)
	fmt.Println(string(p))

	broker.Broadcast(websocket.Text([]byte("hello, all")))
	_, p, _ = alice.Read(ctx)
	fmt.Println(string(p))

	fmt.Println(alice.Close(coder.StatusGoingAway, "")) // answered with the same status
	// Output:
	// hello
	// hello, all
	// <nil>
}

// Frames go to connections of gorilla/websocket, too.
func ExampleGorillaFrames() {
	broker := sendq.NewBroker(nil)
	server := httptest.NewServer(websocket.GorillaFrames(broker))
	defer server.Close()

	url := "ws" + strings.TrimPrefix(server.URL, "http")
	alice, _, _, err := ws.Dial(context.Background(), url+"?name=alice")
	if err != nil {
		panic(err)
	}
	wsutil.WriteClientText(alice, []byte("hello"))
	p, _ := wsutil.ReadServerText(alice)
	fmt.Println(string(p))

	ended := make(chan error)
	go func() { ended <- broker.Shutdown(context.Background()) }()
	_, err = wsutil.ReadServerText(alice)
	fmt.Println(err, <-ended)
	// Output:
	// hello
	// ws closed: 1000  <nil>
}
