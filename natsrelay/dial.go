package natsrelay

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// dial connects to NATS. The connection reconnects for ever, and buffers nothing while it is down,
// because the Relay has its own queues. All its bounds follow from the Lease. Errors that NATS reports
// later are logged. use names the connection in the log.
func (r *Relay) dial(servers, use string, natsOptions []nats.Option, reconnected func(*nats.Conn)) (*nats.Conn, error) {
	defaults := []nats.Option{
		nats.Name("sendq"),
		nats.PingInterval(r.opts.pingInterval()),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(r.opts.netTimeout()),
		nats.FlusherTimeout(r.opts.netTimeout()),
		nats.ReconnectWait(r.opts.pingInterval() / 4), // after all servers were tried
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectOnFlusherError(),
	}
	needed := func(o *nats.Options) error {
		o.AllowReconnect, o.MaxReconnect, o.ReconnectBufSize = true, -1, -1
		o.RetryOnFailedConnect = false // Connect needs the server for its limits
		o.IgnoreAuthErrorAbort = true  // otherwise the connection would close for good
		o.NoEcho = false               // a node must hear itself
		// The handlers of the caller are called too. All handlers run in one goroutine.
		onReconnect, onError := o.ReconnectedCB, o.AsyncErrorCB
		last := ""
		o.ReconnectedCB = func(nc *nats.Conn) {
			last = ""
			reconnected(nc)
			if onReconnect != nil {
				onReconnect(nc)
			}
		}
		o.AsyncErrorCB = func(nc *nats.Conn, s *nats.Subscription, err error) {
			if err.Error() != last { // the same may come with each message
				last = err.Error()
				r.opts.Log.Error("NATS", "node", r.id, "use", use, "error", err)
			}
			if onError != nil {
				onError(nc, s, err)
			}
		}
		return nil
	}
	nc, err := nats.Connect(servers, append(append(defaults, natsOptions...), needed)...)
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without the URL, which may contain a password
	}
	if err != nil {
		return nil, fmt.Errorf("natsrelay: connect to %s: %w", redactURLs(servers), err)
	}
	r.goroutines.Go(func() { r.watch(nc, use) })
	return nc, nil
}

// watch logs when a connection is lost, and when it is back.
func (r *Relay) watch(nc *nats.Conn, use string) {
	changes := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)
	isLost := false
	for {
		select {
		case <-r.ctx.Done():
			return
		case status := <-changes:
			switch {
			case r.ctx.Err() != nil:
				return
			case status == nats.CLOSED:
				r.opts.Log.Error("NATS connection closed for good", "node", r.id, "use", use, "error", nc.LastError())
			case status == nats.RECONNECTING && !isLost:
				isLost = true
				r.opts.Log.Warn("NATS connection lost", "node", r.id, "use", use)
			case status == nats.CONNECTED && isLost:
				isLost = false
				r.opts.Log.Info("NATS connection restored", "node", r.id, "use", use, "server", nc.ConnectedUrlRedacted())
			}
		}
	}
}

// redactURLs returns URLs without users and passwords. A user name may be a token.
func redactURLs(servers string) string {
	urls := strings.Split(servers, ",")
	for i, s := range urls {
		if s = strings.TrimSpace(s); !strings.Contains(s, "://") {
			s = "nats://" + s // as nats.go does
		}
		if u, err := url.Parse(s); err == nil {
			u.User = nil
			urls[i] = u.String()
		} else {
			urls[i] = "(malformed URL)"
		}
	}
	return strings.Join(urls, ",")
}
