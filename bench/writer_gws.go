//go:build linux

package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"

	"github.com/lxzan/gws"
)

// gwsSender is a WebSocket connection of gws. It frames messages and does not copy them.
type gwsSender struct{ conn *gws.Conn }

func startGWS(conn net.Conn) (sender, error) {
	request, err := http.NewRequest(http.MethodGet, "http://localhost/", nil)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "c2VuZHEgc2VuZHEgc2VuZA==",
	} {
		request.Header.Set(name, value)
	}
	c, err := gws.NewUpgrader(gws.BuiltinEventHandler{}, nil).UpgradeFromConn(conn, bufio.NewReader(conn), request)
	if err != nil {
		return nil, fmt.Errorf("gws: %w", err)
	}
	return gwsSender{c}, nil
}

func (s gwsSender) send(message []byte) error {
	s.conn.WriteAsync(gws.OpcodeBinary, message, nil)
	return nil
}
func (s gwsSender) end() error { return nil }
func (s gwsSender) close()     { s.conn.NetConn().Close() }

// webSocketHeader returns the length of the header of a server's frame.
func webSocketHeader(size int) int {
	switch {
	case size < 126:
		return 2
	case size < 1<<16:
		return 4
	}
	return 10
}
