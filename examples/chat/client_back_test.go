package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
	"github.com/sendq-go/sendq/examples/chat/server"
)

// A proxy is an unreliable network before a server.
type proxy struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func startProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{Listener: l}
	t.Cleanup(func() { l.Close(); p.cut() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, near, far)
			p.mu.Unlock()
			go p.copy(near, far)
			go p.copy(far, near)
		}
	}()
	return p
}

func (p *proxy) copy(to, from net.Conn) {
	io.Copy(to, from)
	to.(*net.TCPConn).CloseWrite()
}

// cut cuts all connections, and loses what is under way.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	p.conns = nil
}

func newServer() *server.Server {
	return server.New(server.Options{Resume: true, Log: slog.New(slog.DiscardHandler)})
}

func serveHere(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- newServer().Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		<-served
	})
	return l.Addr().String()
}

// The connection breaks twenty times while others write. The client shows every line once, in order.
func TestClientShowsEachLineOnce(t *testing.T) {
	addr := serveHere(t)
	network := startProxy(t, addr)
	notes := make(chan string, 100)
	in, typed := io.Pipe()
	shown, out := io.Pipe()
	c := &client{
		dial:   func() (net.Conn, error) { return dial(network.Addr().String(), nil) },
		name:   "bob",
		typed:  readTyped(in),
		out:    out,
		note:   func(format string, args ...any) { notes <- fmt.Sprintf(format, args...) },
		linger: time.Minute,
	}
	ended := make(chan error)
	go func() {
		err := c.run()
		out.CloseWithError(err)
		ended <- err
	}()
	fmt.Fprintln(typed, "/join #go")
	lines := bufio.NewReader(shown)
	first, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "* bob joined #go\n", first)

	cut := make(chan struct{})
	var writers sync.WaitGroup
	for i, form := range []string{"bob: %v", "#go: %v", "bob, nobody: %v " + strings.Repeat("x", 1000)} {
		w := chattest.Dial(t, addr)
		w.Say(fmt.Sprint("writer", i), "/join #go")
		go io.Copy(io.Discard, w.Lines)
		writers.Go(func() {
			for n := 0; ; n++ {
				_, err := fmt.Fprintf(w.Out, form+"\n", n)
				assert.NoError(t, err)
				select {
				case <-cut:
					fmt.Fprintf(w.Out, form+"\n", "end")
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	go func() {
		defer close(cut)
		for range 20 {
			time.Sleep(time.Duration(20+rand.IntN(100)) * time.Millisecond)
			network.cut()
			for !strings.HasPrefix(<-notes, "back, ") {
			}
		}
	}()
	next := make(map[string]int)
	for ended := 0; ended < 3; {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		writer, text, said := strings.Cut(strings.TrimPrefix(line, "from "), ": ")
		switch {
		case !said || writer == line: // somebody has joined
		case strings.HasPrefix(text, "end"):
			ended++
		default:
			var n int
			fmt.Sscan(text, &n)
			require.Equal(t, next[writer], n, writer)
			next[writer]++
		}
	}
	t.Log(next)
	typed.Close()
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.NotContains(t, string(rest), "from ")
	require.NoError(t, <-ended)
	writers.Wait()
}

// A link is a connection in a test. Its network may fail without a sign.
type link struct {
	net.Conn
	loses, stalls atomic.Bool
	closed        chan struct{}
	close         sync.Once
}

func (l *link) Read(p []byte) (int, error) {
	for {
		n, err := l.Conn.Read(p)
		if err != nil || !l.loses.Load() {
			return n, err
		}
	}
}

func (l *link) Write(p []byte) (int, error) {
	switch {
	case l.loses.Load():
		return len(p), nil
	case l.stalls.Load():
		<-l.closed
		return 0, net.ErrClosed
	}
	return l.Conn.Write(p)
}

func (l *link) Close() error {
	l.close.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

// A user has a client in a bubble of synctest.
type user struct {
	t     *testing.T
	s     *server.Server
	link  *link // the last one; its network fails if away
	away  bool
	typed io.Writer
	said  strings.Builder // by the client and the server
	ended chan error      // has the result of the client
	done  chan struct{}   // closed when the client has ended
	mu    sync.Mutex
}

func (u *user) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.said.Write(p)
}

func (u *user) dial() (net.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.away {
		return nil, io.ErrUnexpectedEOF
	}
	conn, peer := net.Pipe()
	u.link = &link{Conn: peer, closed: make(chan struct{})}
	go u.s.Handle(conn)
	return u.link, nil
}

func (u *user) setAway(away bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.away = away
}

// expect waits, and requires what was said in that time.
func (u *user) expect(wait time.Duration, lines ...string) {
	u.t.Helper()
	time.Sleep(wait)
	require.Equal(u.t, strings.Join(lines, ""), u.take())
}

// take returns what was said since the last time.
func (u *user) take() string {
	synctest.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.said.Reset()
	return u.said.String()
}

func startUser(t *testing.T, s *server.Server, name string) *user {
	in, typed := io.Pipe()
	u := &user{t: t, s: s, typed: typed, ended: make(chan error, 1), done: make(chan struct{})}
	c := &client{
		dial: u.dial, name: name, typed: readTyped(in), out: u, linger: time.Minute,
		note: func(format string, args ...any) { fmt.Fprintf(u, "! "+format+"\n", args...) },
	}
	go func() {
		defer close(u.done)
		u.ended <- c.run()
	}()
	u.expect(0, "! connected to pipe: say bob: hi, *: hi, /who, /join #go, #go: hi; Ctrl-D ends\n")
	t.Cleanup(func() {
		typed.Close()
		u.setAway(true)
		u.link.Close()
		<-u.done
	})
	return u
}

func (u *user) say(lines string) { io.WriteString(u.typed, lines) }

const soon = 200 * time.Millisecond // for the first try to come back

// If the network fails without a sign, the client notices: it asks after a minute, and comes back ten
// seconds later. It sends then what was typed.
func TestClientNoticesADeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		alice, bob := startUser(t, s, "alice"), startUser(t, s, "bob")
		bob.expect(3 * time.Minute) // the answers of a live server are not shown
		bob.say("/who\n")
		bob.expect(0, "names: alice, bob\n")
		bob.link.loses.Store(true)
		alice.say("bob: 1\nbob: 2\n")
		time.Sleep(30 * time.Second)
		bob.say("alice: lost\n")
		bob.expect(39 * time.Second)
		bob.expect(time.Second+soon, "! the server does not answer: coming back\n",
			"! your last lines, 1 at most, may not have arrived\n", "! back, 2 messages caught up\n", "from alice: 1\n", "from alice: 2\n")
		alice.expect(0)
		bob.say("alice: back\n")
		alice.expect(0, "from bob: back\n")
	})
}

// What the connection has not taken, and what is typed while the client is away, is sent when it is back.
func TestClientKeepsWhatIsTyped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		alice, bob := startUser(t, s, "alice"), startUser(t, s, "bob")
		bob.setAway(true)
		bob.link.stalls.Store(true)
		bob.say("alice: 1\n")
		bob.expect(0)
		bob.link.Close()
		bob.expect(30*time.Second, "! the connection broke: io: read/write on closed pipe: coming back\n")
		bob.say("alice: 2\n")
		alice.say("bob: where are you?\n")
		alice.expect(0)
		bob.setAway(false)
		bob.expect(longestPause, "! back, 1 messages caught up\n", "from alice: where are you?\n")
		alice.expect(0, "from bob: 1\n", "from bob: 2\n")
	})
}

// If the key is worth nothing any longer, the client logs in anew, and joins its rooms again.
func TestClientLogsInAnew(t *testing.T) {
	for name, test := range map[string]struct {
		isAwayFor time.Duration
		restarts  bool
	}{
		"after the time to come back": {isAwayFor: 2 * time.Minute},
		"at another server":           {isAwayFor: time.Second, restarts: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bob := startUser(t, newServer(), "bob")
				bob.say("/join #go\n/join #tea\n")
				bob.expect(0, "* bob joined #go\n", "* bob joined #tea\n")
				bob.say("/leave #tea\n/who #tea\n")
				bob.expect(0, "names: \n")
				bob.setAway(true)
				bob.link.Close()
				bob.expect(test.isAwayFor, "! the connection broke: io: read/write on closed pipe: coming back\n")
				if test.restarts {
					require.NoError(t, bob.s.Broker().CloseNow())
					bob.s = newServer()
				}
				bob.setAway(false)
				bob.expect(2*longestPause, "! logged in anew, messages may be missing here\n", "* bob joined #go\n")
			})
		})
	}
}

// keeping tickets outlive their server, as those of a cluster do.
type keeping struct{ byUser sync.Map }

func (k *keeping) Get(_ context.Context, user string) (server.Ticket, error) {
	t, _ := k.byUser.LoadOrStore(user, server.Ticket{})
	return t.(server.Ticket), nil
}

func (k *keeping) Put(_ context.Context, user string, t server.Ticket) error {
	k.byUser.Store(user, t)
	return nil
}

func (*keeping) Delete(context.Context, string, server.Ticket, time.Duration) error { return nil }

// If lines are missing, the user may be in no room any longer, so the client joins its rooms again. The
// user sees nothing of that if it was not necessary.
func TestClientJoinsItsRoomsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := server.Options{Resume: true, Tickets: new(keeping), Log: slog.New(slog.DiscardHandler)}
		s := server.New(o)
		alice, bob := startUser(t, s, "alice"), startUser(t, s, "bob")
		bob.say("/join #go\n")
		bob.expect(0, "* bob joined #go\n")
		lose := func() {
			bob.setAway(true)
			bob.link.Close()
			bob.expect(soon, "! the connection broke: io: read/write on closed pipe: coming back\n")
		}

		bob.link.loses.Store(true)
		for range 50 { // more than is kept
			alice.say("bob: " + strings.Repeat("x", 60_000) + "\n")
		}
		synctest.Wait() // until the server has written them
		lose()
		bob.setAway(false)
		time.Sleep(longestPause)
		said := bob.take()
		require.Contains(t, said, "! back, messages may be missing here\nfrom alice: ")
		require.NotContains(t, said, "error: ")
		bob.say("/leave #go\n/join #go\n/join #go\n")
		bob.expect(0, "* bob joined #go\n", "error: already in #go\n")

		lose()
		require.NoError(t, bob.s.Broker().CloseNow())
		bob.s = server.New(o)
		bob.setAway(false)
		bob.expect(longestPause, "! back, messages may be missing here\n", "* bob joined #go\n")
		bob.say("/who #go\n/leave #go\n")
		bob.expect(0, "names: bob\n")

		lose()
		require.NoError(t, bob.s.Broker().CloseNow())
		bob.s = server.New(o)
		bob.setAway(false)
		bob.expect(longestPause, "! back, messages may be missing here\n")
	})
}

// If another user has the name by then, the client ends.
func TestClientLosesItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		bob := startUser(t, s, "bob")
		bob.setAway(true)
		bob.link.Close()
		time.Sleep(2 * time.Minute)
		startUser(t, s, "bob")
		bob.setAway(false)
		require.Equal(t, errTaken, <-bob.ended)
	})
}

// forgetful tickets are lost.
type forgetful struct{ server.Tickets }

func (forgetful) Get(context.Context, string) (t server.Ticket, err error) { return t, nil }
func (forgetful) Put(context.Context, string, server.Ticket) error         { return nil }
func (forgetful) Delete(context.Context, string, server.Ticket, time.Duration) error {
	return nil
}

// If the server has lost the key, the client waits until its name is free.
func TestClientWaitsForItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server.New(server.Options{Resume: true, Tickets: forgetful{}, Log: slog.New(slog.DiscardHandler)})
		bob := startUser(t, s, "bob")
		bob.link.Close()
		bob.expect(time.Minute-time.Second, "! the connection broke: io: read/write on closed pipe: coming back\n")
		bob.expect(2*longestPause, "! logged in anew, messages may be missing here\n")
	})
}

// The last line is typed while the client is away. It is sent before the goodbye.
func TestClientEndsWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		alice, bob := startUser(t, s, "alice"), startUser(t, s, "bob")
		for _, isBack := range []bool{true, false} {
			bob.setAway(true)
			bob.link.Close()
			bob.say("alice: bye\n")
			bob.typed.(io.Closer).Close()
			synctest.Wait()
			if isBack {
				bob.setAway(false)
				require.NoError(t, <-bob.ended)
				alice.expect(0, "from bob: bye\n")
				bob = startUser(t, s, "bob")
			} else {
				began := time.Now()
				require.ErrorIs(t, <-bob.ended, io.ErrUnexpectedEOF)
				require.LessOrEqual(t, time.Since(began), time.Minute+2*longestPause)
				alice.expect(0)
			}
		}
	})
}

// A line that was cut off is shown once, when it comes again.
func TestClientIgnoresAPartOfALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown strings.Builder
		in, typed := io.Pipe()
		peers := make(chan net.Conn)
		c := &client{
			dial: func() (net.Conn, error) {
				conn, peer := net.Pipe()
				peers <- peer
				return conn, nil
			},
			name: "bob", typed: readTyped(in), out: &shown, note: func(string, ...any) {}, linger: time.Minute,
		}
		ended := make(chan error)
		go func() { ended <- c.run() }()
		for _, exchange := range [][2]string{
			{"bob\n", "* your key is K\nfrom alice: 1\nfrom alice: ha"},
			{"bob K 2 0\n", "* back: 1 lines\nfrom alice: half\nfrom"},
			{"bob K 2 1\n", ""},
			{"bob K 2 1\n", "* back: lines are missing\nfrom alice: 3\n"},
		} {
			peer := <-peers
			first, err := bufio.NewReader(peer).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, exchange[0], first)
			go io.Copy(io.Discard, peer)
			time.Sleep(time.Second)
			io.WriteString(peer, exchange[1])
			if strings.HasSuffix(exchange[1], "3\n") {
				typed.Close()
				synctest.Wait()
			}
			peer.Close()
		}
		require.NoError(t, <-ended) // it has said /quit
		require.Equal(t, "from alice: 1\nfrom alice: half\nfrom alice: 3\n", shown.String())
	})
}
