package main

import (
	"context"
	"expvar"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
	"github.com/sendq-go/sendq/promsendq"
	"github.com/sendq-go/sendq/promsendq/promnatsrelay"
)

// Fragments in the documents use these names.
var (
	ctx     context.Context
	conn    net.Conn
	rw      http.ResponseWriter
	err     error
	n       int
	message []byte
	names   []string
	w       *sendq.Writer
	broker  *sendq.Broker
	relay   *natsrelay.Relay
)

func main() {}
