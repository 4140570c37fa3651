package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendq-go/sendq/examples/chat/server"
)

// ticketTimeout bounds a request to JetStream.
const ticketTimeout = 5 * time.Second

// tickets store the tickets of all nodes in a bucket of JetStream's key-value store.
type tickets struct {
	js            jetstream.JetStream
	names, bucket string // the buckets of the names and of the tickets
}

var _ server.Tickets = (*tickets)(nil)

// newTickets fails if a right is missing.
func newTickets(nc *nats.Conn, cluster string) (*tickets, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	t := &tickets{js, cluster, cluster + "-tickets"}
	t.useRights()
	if err := nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return nil, fmt.Errorf("-resume needs a right at NATS, see Rights in the documentation: %w", err)
	}
	return t, nil
}

// useRights uses each right once, because NATS reports a missing one only on the connection. It ignores
// all other errors, because they may pass.
func (t *tickets) useRights() {
	const nobody = " " // not the name of a user
	ticket := server.Ticket{Hash: []byte{0}, Bases: []int64{0}}
	if t.Put(context.Background(), nobody, ticket) == nil {
		_ = t.Delete(context.Background(), nobody, ticket, 0)
	}
}

// open returns the bucket. It creates the bucket if there is none, because NATS keeps it in memory and
// may have been restarted.
func (t *tickets) open(ctx context.Context) (jetstream.Stream, jetstream.KeyValue, error) {
	name := "KV_" + t.bucket
	stream, err := t.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = t.create(ctx, name)
	}
	if err != nil {
		return nil, nil, err
	}
	kv, err := t.js.KeyValue(ctx, t.bucket)
	return stream, kv, err
}

// create makes a bucket with as many replicas as that of the names, and without direct access. Reads go
// to the leader, because a replica may not yet have the ticket from another node.
func (t *tickets) create(ctx context.Context, name string) (jetstream.Stream, error) {
	names, err := t.js.Stream(ctx, "KV_"+t.names)
	if err != nil {
		return nil, err
	}
	return t.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:              name,
		Subjects:          []string{"$KV." + t.bucket + ".>"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          names.CachedInfo().Config.Replicas,
		MaxMsgsPerSubject: 1,
		AllowRollup:       true,
		AllowMsgTTL:       true,
		DenyDelete:        true,
	})
}

// key encodes a user, because a key has rules of its own for dots.
func key(user string) string { return hex.EncodeToString([]byte(user)) }

func (t *tickets) Get(ctx context.Context, user string) (server.Ticket, error) {
	ctx, cancel := context.WithTimeout(ctx, ticketTimeout)
	defer cancel()
	_, kv, err := t.open(ctx)
	if err != nil {
		return server.Ticket{}, err
	}
	ticket, _, err := read(ctx, kv, user)
	return ticket, err
}

// read returns a ticket and its revision.
func read(ctx context.Context, kv jetstream.KeyValue, user string) (ticket server.Ticket, revision uint64, err error) {
	entry, err := kv.Get(ctx, key(user))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return ticket, 0, nil
	}
	if err != nil {
		return ticket, 0, err
	}
	if err := json.Unmarshal(entry.Value(), &ticket); err != nil || len(ticket.Bases) == 0 {
		return ticket, 0, fmt.Errorf("ticket of %s: senseless entry", user)
	}
	return ticket, entry.Revision(), nil
}

func (t *tickets) Put(ctx context.Context, user string, ticket server.Ticket) error {
	ctx, cancel := context.WithTimeout(ctx, ticketTimeout)
	defer cancel()
	_, kv, err := t.open(ctx)
	if err != nil {
		return err
	}
	value, err := json.Marshal(ticket)
	if err == nil {
		_, err = kv.Put(ctx, key(user), value)
	}
	return err
}

// Delete purges the stream up to the ticket, so a newer one stays. A Delete of the bucket would leave a
// marker. If the ticket is to live on for a time, Delete stores it once more with an end, in whole
// seconds.
func (t *tickets) Delete(ctx context.Context, user string, ticket server.Ticket, after time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, ticketTimeout)
	defer cancel()
	stream, kv, err := t.open(ctx)
	if err != nil {
		return err
	}
	stored, revision, err := read(ctx, kv, user)
	if err != nil || !stored.Equal(ticket) {
		return err
	}
	subject := "$KV." + t.bucket + "." + key(user)
	if after == 0 {
		return stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(revision+1))
	}
	value, err := json.Marshal(ticket)
	if err == nil {
		_, err = t.js.Publish(ctx, subject, value, jetstream.WithMsgTTL(max(after, time.Second)),
			jetstream.WithExpectLastSequencePerSubject(revision))
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil // the ticket is a newer one
	}
	return err
}
