package sendq_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// Twenty users come back a thousand times while five senders use all methods. Their connections are
// cut in all ways and at any time, or end by a limit with a farewell. Now and then a user resumes
// twice at once, or logs in anew and reads the old connection to its end. Every message arrives once,
// and the messages of a sender are in order. At the end nothing is left.
func TestResumeUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	goroutines, before := goroutinesLeft(0), 0
	for round := range 2 { // the second one finds everything that is made once
		if round == 1 {
			before = heap()
		}
		t.Run("", func(t *testing.T) { newResumeLoad(t, seed+uint64(round)).run(10 + 50*round) })
	}
	require.LessOrEqual(t, goroutinesLeft(goroutines), goroutines)
	// Connections have finalizers, which take their time on a busy machine.
	require.Eventually(t, func() bool { return heap()-before < 1<<20 }, time.Minute, 10*time.Millisecond, "memory is left")
}

// A resumeLoad is a Broker with users that come back, and senders.
type resumeLoad struct {
	t       *testing.T
	seed    uint64
	broker  *sendq.Broker
	opts    sendq.WriterOptions
	users   []*loadUser
	serving sync.WaitGroup
}

// A loadUser is a user that comes back.
type loadUser struct {
	*resumeLoad
	countingPeer
	name              string
	rng               *rand.Rand
	sent              [loadSenders][]int // the numbers of the messages of each sender to this user
	resumes, relogins int
	isLast            bool // the next connection is the last one
}

const loadSenders = 5

func newResumeLoad(t *testing.T, seed uint64) *resumeLoad {
	l := &resumeLoad{t: t, seed: seed}
	l.broker = sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, Linger: time.Hour})
	l.opts = sendq.WriterOptions{Keep: 64 << 20, Budget: sendq.NewBudget(1 << 30), CloseTimeout: time.Hour}
	for i := range 20 {
		l.users = append(l.users, &loadUser{resumeLoad: l, countingPeer: newCountingPeer(), name: memberName(i), rng: rand.New(rand.NewPCG(seed, uint64(i)))})
	}
	return l
}

// run lets each user come back the given number of times.
func (l *resumeLoad) run(times int) {
	var logins, rounds, sending sync.WaitGroup
	var over atomic.Bool
	finals := make([]<-chan error, len(l.users))
	for i, u := range l.users {
		logins.Add(1)
		rounds.Go(func() { finals[i] = u.comeAndGo(times, logins.Done) })
	}
	logins.Wait()
	for sender := range loadSenders {
		sending.Go(func() { l.send(sender, &over) })
	}
	rounds.Wait()
	over.Store(true)
	sending.Wait()
	// The users acknowledge everything now.
	assert.Eventually(l.t, func() bool { return l.opts.Budget.PendingBytes() == 0 }, time.Minute, time.Millisecond)
	assert.NoError(l.t, l.broker.Shutdown(l.t.Context()))
	messages, resumes, relogins, goodbyes := 0, 0, 0, 0
	for i, u := range l.users {
		assert.NoError(l.t, <-finals[i])
		for sender, sent := range u.sent {
			assert.True(l.t, slices.Equal(sent, u.numbers[sender]), "from %d to %s: %s", sender, u.name, difference(sent, u.numbers[sender]))
			messages += len(sent)
		}
		resumes, relogins, goodbyes = resumes+u.resumes, relogins+u.relogins, goodbyes+u.goodbyes
	}
	l.serving.Wait()
	l.t.Logf("%d messages, %d reconnects, %d logins, %d farewells", messages, resumes, relogins, goodbyes)
}

// difference says where got begins to differ from want.
func difference(want, got []int) string {
	i := 0
	for i < min(len(want), len(got)) && want[i] == got[i] {
		i++
	}
	return fmt.Sprintf("%d messages instead of %d; %v instead of %v", len(got), len(want), got[i:min(i+5, len(got))], want[i:min(i+5, len(want))])
}

// send sends until it is over.
func (l *resumeLoad) send(sender int, over *atomic.Bool) {
	rng := rand.New(rand.NewPCG(l.seed, uint64(1000+sender)))
	room := l.broker.Room("room")
	sent := func(number int, to ...*loadUser) {
		for _, u := range to {
			u.sent[sender] = append(u.sent[sender], number)
		}
	}
	some := func() (some []*loadUser, names []string) {
		for _, i := range rng.Perm(len(l.users))[:rng.IntN(6)] {
			some, names = append(some, l.users[i]), append(names, l.users[i].name)
		}
		return some, names
	}
	for number := 0; !over.Load(); number++ {
		p := frame(sender, number, rng.IntN(300))
		u := pick(rng, l.users)
		switch rng.IntN(5) {
		case 0:
			p = frame(sender, number, pick(rng, []int{0, 100, 3_000, 20_000, 300_000 >> rng.IntN(5)}))
			assert.NoError(l.t, l.broker.Send(u.name, p))
			sent(number, u)
		case 1:
			users, names := some()
			assert.Equal(l.t, all(len(names)), l.broker.SendTo(names, p))
			sent(number, users...)
		case 2:
			assert.Equal(l.t, len(l.users), room.Publish(p))
			sent(number, l.users...)
		case 3:
			assert.Equal(l.t, len(l.users), l.broker.Broadcast(p))
			sent(number, l.users...)
		case 4:
			batch, accepted := l.broker.NewBatch(), 0
			for range rng.IntN(5) {
				u := pick(rng, l.users)
				batch.Send(u.name, frame(sender, number, rng.IntN(300)))
				sent(number, u)
				number++
				batch.Publish("room", frame(sender, number, rng.IntN(300)))
				sent(number, l.users...)
				number++
				accepted += 1 + len(l.users)
			}
			assert.Equal(l.t, all(accepted), batch.Flush())
		}
		time.Sleep(time.Duration(rng.IntN(int(4 * time.Millisecond))))
	}
}

// A loadConn is a connection of a user.
type loadConn struct {
	*sendq.Writer
	peer    net.Conn
	resumed bool
}

// connect makes a connection of any kind. It does not give it the name.
func (u *loadUser) connect(resumes bool) *loadConn {
	conn, peer := pick(u.rng, transports).pair(u.t)
	c := &loadConn{sendq.NewWriter(conn, u.options()), peer, resumes}
	u.serving.Go(func() {
		_, err := io.Copy(io.Discard, conn)
		_ = c.Fail(cmp.Or(err, io.EOF))
	})
	return c
}

// options returns the options of a connection, often with a short limit.
func (u *loadUser) options() *sendq.WriterOptions {
	opts := u.opts
	if limit := u.rng.IntN(4); limit < 2 && !u.isLast {
		opts.MaxAge = []time.Duration{0, 10 * time.Millisecond}[limit]
		opts.WriteTimeout = []time.Duration{10 * time.Millisecond, 0}[limit]
		opts.CloseTimeout = 20 * time.Millisecond
		opts.Farewell = func(error) []byte { return frame(parting, 0, 9) }
	}
	return &opts
}

func (u *loadUser) resume(c *loadConn) {
	resumed, err := u.broker.Resume(u.t.Context(), u.name, c.Writer, u.received, answerFrame)
	assert.NoError(u.t, err)
	assert.Zero(u.t, resumed.Missed)
	u.resumes++
}

// read reads until the connection ends, the deadline passes, or the user has read n bytes.
func (u *loadUser) read(c *loadConn, n int64) error {
	u.counted = func() {
		if u.isLast || u.rng.IntN(30) == 0 {
			if err := c.Acknowledge(u.received); c.Err() == nil || errors.Is(err, sendq.ErrWrongCount) {
				assert.NoError(u.t, err)
			}
		}
	}
	return u.countingPeer.read(io.LimitReader(c.peer, n), c.resumed)
}

// comeAndGo lets the user log in, and come back several times. The last connection is read to its
// end; the result gets the outcome.
func (u *loadUser) comeAndGo(times int, loggedIn func()) <-chan error {
	c := u.connect(false)
	assert.NoError(u.t, u.broker.Register(u.name, c.Writer))
	assert.NoError(u.t, u.broker.Room("room").Join(u.name))
	loggedIn()
	for i := range times {
		u.isLast = i == times-1
		if u.rng.IntN(10) == 0 {
			c = u.logInAnew(c)
			continue
		}
		// This fails if the connection has ended, and then read does not wait.
		_ = c.peer.SetReadDeadline(time.Now().Add(time.Duration(u.rng.IntN(int(30 * time.Millisecond)))))
		assert.NoError(u.t, u.read(c, pick(u.rng, []int64{0, u.rng.Int64N(50), u.rng.Int64N(10_000), math.MaxInt64})))
		pick(u.rng, cuts).cut(u.t, c.peer)
		time.Sleep(time.Duration(u.rng.IntN(int(5 * time.Millisecond)))) // away
		old := c
		c = u.comeBack()
		old.peer.Close()
	}
	return async(func() error { return u.read(c, math.MaxInt64) })
}

// comeBack resumes on a new connection, or on two at once. It returns the one that has the name.
func (u *loadUser) comeBack() *loadConn {
	c := u.connect(true)
	if u.rng.IntN(10) > 0 {
		u.resume(c)
		return c
	}
	other := u.connect(true)
	resumed := async(func() error {
		return second(u.broker.Resume(u.t.Context(), u.name, other.Writer, u.received, answerFrame))
	})
	u.resume(c)
	assert.NoError(u.t, <-resumed)
	if w, _ := u.broker.Lookup(u.name); w == c.Writer {
		other.peer.Close()
		return c
	}
	c.peer.Close()
	return other
}

// logInAnew takes the name over, reads the old connection to its end, and counts from 0.
func (u *loadUser) logInAnew(old *loadConn) *loadConn {
	c := u.connect(false)
	read := async(func() error { return u.read(old, math.MaxInt64) })
	time.Sleep(time.Millisecond)
	assert.NoError(u.t, u.broker.Register(u.name, c.Writer))
	assert.NoError(u.t, <-read)
	old.peer.Close()
	u.received = 0
	u.relogins++
	return c
}
