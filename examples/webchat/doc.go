// Command webchat is the chat of examples/chat for browsers: one server, whose users share
// names and rooms whether they come by the page, over a WebSocket, or with lines over TCP.
//
//	go run ./examples/webchat          # page at http://127.0.0.1:8080/, lines at 127.0.0.1:8081
package main
