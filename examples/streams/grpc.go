package streams

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/sendq-go/sendq"
)

// Subscribe is the handler of a gRPC method that returns a stream of messages. It registers the
// stream in b, until the client goes or the Writer ends. All messages through b are encoded, as by
// proto.Marshal. The server needs the Codec.
func Subscribe(b *sendq.Broker, name string, stream grpc.ServerStream) error {
	closed := make(chan struct{})
	conn := sendq.MessageConn(func(p []byte) error {
		return stream.SendMsg(encoded(p))
	}, func() error {
		close(closed) // this handler returns, and that makes a stuck SendMsg return
		return nil
	})
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 4 << 20, WriteTimeout: 30 * time.Second})
	if err := b.Register(name, w); err != nil {
		w.CloseNow()
		return status.Error(codes.AlreadyExists, err.Error())
	}
	select {
	case <-closed: // by a limit, a takeover or Shutdown; no SendMsg begins any longer
	case <-stream.Context().Done(): // the client has gone
		w.CloseNow()
	}
	if err := w.Err(); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

// encoded is a message that is encoded already, once for all its recipients.
type encoded []byte

// Codec is the option of a server whose streams send encoded messages. All other messages are
// encoded as usual.
func Codec() grpc.ServerOption {
	return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")})
}

type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if p, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.Copy(p, mem.DefaultBufferPool())}, nil // gRPC keeps it longer than SendMsg takes
	}
	return c.CodecV2.Marshal(v)
}
