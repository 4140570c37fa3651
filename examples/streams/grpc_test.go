package streams_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/streams"
)

// patience bounds every wait. It is never reached unless something is wrong.
const patience = 30 * time.Second

// desc describes a service as generated code does.
func desc(b *sendq.Broker, ended chan<- error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "Events",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    "Subscribe",
			ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				name := new(wrapperspb.StringValue)
				if err := stream.RecvMsg(name); err != nil {
					return err
				}
				guarded := &guardedStream{ServerStream: stream}
				err := streams.Subscribe(b, name.Value, guarded)
				guarded.returned.Store(true)
				if ended != nil {
					ended <- err
				}
				return err
			},
		}},
	}
}

// A guardedStream panics if a SendMsg begins beside another or after the handler has returned.
type guardedStream struct {
	grpc.ServerStream
	sending  atomic.Int32
	returned atomic.Bool
}

func (s *guardedStream) SendMsg(m any) error {
	if s.sending.Add(1) > 1 || s.returned.Load() {
		panic("SendMsg at the wrong time")
	}
	defer s.sending.Add(-1)
	return s.ServerStream.SendMsg(m)
}

// serveGRPC returns a connection to a new server.
func serveGRPC(t *testing.T, b *sendq.Broker, ended chan<- error) *grpc.ClientConn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(streams.Codec())
	server.RegisterService(desc(b, ended), nil)
	go server.Serve(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		b.CloseNow()
		conn.Close()
		server.Stop()
	})
	return conn
}

// subscribe returns a stream once the broker has its name.
func subscribe(t *testing.T, ctx context.Context, b *sendq.Broker, conn *grpc.ClientConn, name string) grpc.ClientStream {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/Events/Subscribe")
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(wrapperspb.String(name)))
	require.NoError(t, stream.CloseSend())
	require.Eventually(t, func() bool {
		_, ok := b.Lookup(name)
		return ok
	}, patience, time.Millisecond)
	return stream
}

// text returns an encoded message.
func text(t *testing.T, s string) []byte {
	p, err := proto.Marshal(wrapperspb.String(s))
	require.NoError(t, err)
	return p
}

// receive returns the next message.
func receive(stream grpc.ClientStream) (string, error) {
	m := new(wrapperspb.StringValue)
	err := stream.RecvMsg(m)
	return m.Value, err
}

// Many goroutines send on one stream.
func TestSubscribe(t *testing.T) {
	const senders, messages = 20, 100
	b := sendq.NewBroker(nil)
	conn := serveGRPC(t, b, nil)
	alice, bob := subscribe(t, t.Context(), b, conn, "alice"), subscribe(t, t.Context(), b, conn, "bob")
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := range messages {
				b.Broadcast(text(t, fmt.Sprint(sender, " ", i)))
			}
		})
	}
	all.Wait()
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	for _, stream := range []grpc.ClientStream{alice, bob} {
		next := make([]int, senders)
		for range senders * messages {
			m, err := receive(stream)
			require.NoError(t, err)
			var sender, i int
			_, err = fmt.Sscan(m, &sender, &i)
			require.NoError(t, err)
			require.Equal(t, next[sender], i)
			next[sender]++
		}
		_, err := receive(stream)
		require.ErrorIs(t, err, io.EOF)
	}
	require.NoError(t, <-closed)
}

// A client that does not read loses its stream, and learns why. Others get everything.
func TestSubscribeStalled(t *testing.T) {
	b := sendq.NewBroker(nil)
	ended := make(chan error, 1)
	conn := serveGRPC(t, b, ended)
	stalled, alice := subscribe(t, t.Context(), b, conn, "stalled"), subscribe(t, t.Context(), b, conn, "alice")
	message := strings.Repeat("x", 10_000)
	for {
		b.Broadcast(text(t, message))
		got, err := receive(alice)
		require.NoError(t, err)
		require.Equal(t, message, got)
		if _, ok := b.Lookup("stalled"); !ok {
			break
		}
	}
	require.ErrorContains(t, <-ended, "MaxPending")
	var err error
	for err == nil {
		_, err = receive(stalled)
	}
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "MaxPending")
}

// A client goes, and its name is free.
func TestSubscribeGone(t *testing.T) {
	b := sendq.NewBroker(nil)
	conn := serveGRPC(t, b, nil)
	ctx, cancel := context.WithCancel(t.Context())
	subscribe(t, ctx, b, conn, "alice")
	taken := subscribe(t, t.Context(), b, conn, "alice")
	_, err := receive(taken)
	require.Equal(t, codes.AlreadyExists, status.Code(err))
	cancel()
	require.Eventually(t, func() bool { return b.Len() == 0 }, patience, time.Millisecond)
}

// Streams end in all ways at once, during messages.
func TestSubscribeEnds(t *testing.T) {
	for range 200 {
		b := sendq.NewBroker(nil)
		conn := serveGRPC(t, b, nil)
		ctx, cancel := context.WithCancel(t.Context())
		stream := subscribe(t, ctx, b, conn, "alice")
		w, _ := b.Lookup("alice")
		message := text(t, strings.Repeat("x", 100_000))
		var all sync.WaitGroup
		all.Go(func() {
			for b.Send("alice", message) == nil {
			}
		})
		all.Go(func() { receive(stream) })
		all.Go(func() { w.CloseNow() })
		all.Go(cancel)
		all.Wait()
	}
}
