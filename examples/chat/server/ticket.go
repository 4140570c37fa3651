package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"sync"
	"time"
)

// A Ticket lets a user come back after a broken connection. The user shows its key, and says how many
// lines have come on the last connection. The Broker counts over all connections, so the ticket holds
// the count at the beginning of the connection.
//
// If a connection breaks before it has brought anything, the user says the same number as before. So
// the ticket covers two connections, the last one and the one before.
type Ticket struct {
	Hash  []byte  // the SHA-256 of the key, so that nobody can use a ticket they have read
	Times int     // returns before the first of the two connections
	Bases []int64 // lines received before each of the connections; only one after the login
}

// newTicket returns the ticket for the first connection of a user, and its key. The key is random and
// long, so its hash needs no salt.
func newTicket() (t Ticket, key string) {
	key = rand.Text()
	return Ticket{Hash: hashOf(key), Bases: []int64{0}}, key
}

func hashOf(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

// hasKey reports whether key is right. It takes as long for a wrong one. A zero Ticket has no key.
func (t Ticket) hasKey(key string) bool {
	return subtle.ConstantTimeCompare(t.Hash, hashOf(key)) == 1
}

// last returns the number of returns before the last connection.
func (t Ticket) last() int { return t.Times + len(t.Bases) - 1 }

// total returns the number of lines received over all connections, if the last n of them came on the
// connection after times returns. After a return, the first line of a connection is the answer to it,
// and does not count. isKnown reports whether the ticket covers the connection.
func (t Ticket) total(n int64, times int) (total int64, isKnown bool) {
	i := times - t.Times
	if i < 0 || i >= len(t.Bases) {
		return 0, false
	}
	if times > 0 {
		n = max(0, n-1)
	}
	return t.Bases[i] + n, true
}

// next returns the ticket after another return, from the connection after times returns. The user had
// received total lines.
func (t Ticket) next(total int64, times int) Ticket {
	return Ticket{t.Hash, times, []int64{t.Bases[times-t.Times], total}}
}

// Equal reports whether the tickets are the same.
func (t Ticket) Equal(other Ticket) bool {
	return bytes.Equal(t.Hash, other.Hash) && t.Times == other.Times && slices.Equal(t.Bases, other.Bases)
}

// Tickets store the tickets of users. Servers with the same names share them.
type Tickets interface {
	// Get returns the ticket of a user, or a zero Ticket if there is none.
	Get(ctx context.Context, user string) (Ticket, error)

	// Put stores a ticket in place of an earlier one.
	Put(ctx context.Context, user string, t Ticket) error

	// Delete deletes the ticket of a user if it is still t, now or after a time.
	Delete(ctx context.Context, user string, t Ticket, after time.Duration) error
}

// localTickets are the tickets of a server that is alone.
type localTickets struct {
	mu     sync.Mutex
	byUser map[string]Ticket
}

func (l *localTickets) Get(_ context.Context, user string) (Ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byUser[user], nil
}

func (l *localTickets) Put(_ context.Context, user string, t Ticket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byUser[user] = t
	return nil
}

func (l *localTickets) Delete(ctx context.Context, user string, t Ticket, after time.Duration) error {
	if after > 0 {
		time.AfterFunc(after, func() { _ = l.Delete(ctx, user, t, 0) })
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byUser[user].Equal(t) {
		delete(l.byUser, user)
	}
	return nil
}
