//go:build linux

package main

import (
	"bufio"
	"bytes"
	"net"
	"time"
)

// A hub is a chat server like the chat example of gorilla/websocket, the starting point of
// many Go programs. One goroutine owns the set of clients and offers each message to every
// client's channel. A client is disconnected if its channel is full. Each client has one
// goroutine for reading and one for writing. Messages are lines over TCP.
type hub struct {
	clients    map[*hubClient]bool
	register   chan *hubClient
	unregister chan *hubClient
	broadcast  chan []byte
}

type hubClient struct {
	conn net.Conn
	out  chan []byte // closed by the hub
}

// hubWriteWait is the write timeout of a client, as in the example.
const hubWriteWait = 10 * time.Second

// hubWelcome is sent to a client after its registration.
const hubWelcome = "welcome\n"

func newHub() *hub {
	return &hub{make(map[*hubClient]bool), make(chan *hubClient), make(chan *hubClient), make(chan []byte)}
}

// serve accepts clients until Accept fails.
func (h *hub) serve(l net.Listener) error {
	go h.run()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		c := &hubClient{conn, make(chan []byte, 256)}
		h.register <- c
		go h.write(c)
		go h.read(c)
	}
}

func (h *hub) run() {
	for {
		select {
		case c := <-h.register:
			h.clients[c] = true
			c.out <- []byte(hubWelcome)
		case c := <-h.unregister:
			h.remove(c)
		case message := <-h.broadcast:
			for c := range h.clients {
				select {
				case c.out <- message:
				default:
					h.remove(c)
				}
			}
		}
	}
}

func (h *hub) remove(c *hubClient) {
	if h.clients[c] {
		delete(h.clients, c)
		close(c.out)
	}
}

func (h *hub) read(c *hubClient) {
	defer func() { h.unregister <- c }()
	for lines := bufio.NewReader(c.conn); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		h.broadcast <- line
	}
}

// write sends all waiting messages in one write. The example sends them in one frame.
func (h *hub) write(c *hubClient) {
	defer c.conn.Close()
	var together bytes.Buffer
	for message := range c.out {
		together.Reset()
		together.Write(message)
		for range len(c.out) {
			together.Write(<-c.out)
		}
		c.conn.SetWriteDeadline(time.Now().Add(hubWriteWait))
		if _, err := c.conn.Write(together.Bytes()); err != nil {
			return
		}
	}
}
