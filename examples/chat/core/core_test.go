package core_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
	"github.com/sendq-go/sendq/examples/chat/lines"
)

func newServer() *core.Server { return &core.Server{Broker: sendq.NewBroker(nil)} }

// serve runs a server without armour until stop, or the end of the test.
func serve(t *testing.T) (addr string, stop func() error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- newServer().Serve(ctx, l) }()
	stop = func() error {
		cancel()
		return <-served
	}
	t.Cleanup(cancel)
	return l.Addr().String(), stop
}

// TestProtocol: the core needs no armour to keep the protocol.
func TestProtocol(t *testing.T) {
	chattest.Protocol(t, func(t *testing.T) string {
		addr, _ := serve(t)
		return addr
	})
}

func TestStopDeliversWhatIsQueued(t *testing.T) {
	addr, stop := serve(t)
	alice, bob := chattest.Login(t, addr, "alice"), chattest.Login(t, addr, "bob")
	chattest.Dial(t, addr) // a client without a login holds nothing up
	text := strings.Repeat("x", 60_000)
	const messages = 100 // more than the kernel buffers
	for range messages {
		alice.Say("bob: " + text)
	}
	alice.ExpectSilence() // the server has them all
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	alice.ExpectEnd()
	for range messages {
		bob.Expect("from alice: " + text)
	}
	bob.ExpectEnd()
	require.ErrorIs(t, <-stopped, net.ErrClosed)
}

func TestLoginTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		go newServer().Handle(t.Context(), conn)
		begin := time.Now()
		peer.Write([]byte("ali")) // not a line
		rest, err := io.ReadAll(peer)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, core.LoginTimeout, time.Since(begin))
	})
}

func TestNoTimeoutAfterLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		go newServer().Handle(t.Context(), conn)
		peer.Write([]byte("alice\n"))
		time.Sleep(time.Hour)
		peer.Write([]byte("/who\n/quit\n"))
		rest, err := io.ReadAll(peer)
		require.NoError(t, err)
		require.Equal(t, "names: alice\n", string(rest))
	})
}

// TestRefused: users are told that a user refused their message, but not about messages to all.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		conn, peer := net.Pipe() // peer does not read
		bob := &core.Session{Server: s, Ctx: t.Context(), Conn: conn}
		require.NoError(t, bob.Begin())
		require.NoError(t, bob.Do("bob"))
		require.NoError(t, bob.Do("/join #room"))
		go bob.W.Close()
		synctest.Wait()
		alice := login(t, s, "alice")
		for _, line := range []string{"*: hi", "#room: hi", "bob: hi", "alice, bob: hi"} {
			require.NoError(t, alice.Do(line))
		}
		alice.Flush()
		require.NoError(t, alice.Leave(core.ErrQuit))
		require.Equal(t, "* alice joined #room\nerror: bob has just left\nfrom alice: hi\nerror: bob has just left\n", alice.received())
		peer.Close()
		_ = bob.Leave(lines.ErrEnd)
	})
}

// A user is a session that has begun, and is in #room.
type user struct {
	*core.Session
	got  bytes.Buffer
	done chan struct{} // closed when got is complete
}

func login(t *testing.T, s *core.Server, name string) *user {
	conn, peer := net.Pipe()
	u := &user{Session: &core.Session{Server: s, Ctx: t.Context(), Conn: conn}, done: make(chan struct{})}
	go func() {
		defer close(u.done)
		io.Copy(&u.got, peer)
	}()
	require.NoError(t, u.Session.Begin())
	require.NoError(t, u.Do(name))
	require.NoError(t, u.Do("/join #room"))
	return u
}

// Begin is called again when the user's lines are served.
func (u *user) Begin() error { return nil }

// received returns what the user has got until the end of the session.
func (u *user) received() string {
	<-u.done
	return u.got.String()
}

// FuzzProtocol: whatever a client sends, it and others get lines that are harmless.
func FuzzProtocol(f *testing.F) {
	for _, seed := range []string{
		"bob, alice: hi\n", "*: hi\n", "#room: hi\n", "/join #go\n/leave #room\r\n", "/who\n/who #room\n/quit\n",
		"", "\n", ":\n", ",:,\n", "/\n", "/who  \n", "cut off", "a\xff\x1b[2J\u202e: \x00\r\r\n", "#:x\n", "bob,bob,x:y\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		s := newServer()
		alice, bob := login(t, s, "alice"), login(t, s, "bob")
		lines.Serve(strings.NewReader(input), core.MaxLine, bob)
		require.NoError(t, alice.Leave(core.ErrQuit))
		for _, u := range []*user{alice, bob} {
			got := u.received()
			require.True(t, utf8.ValidString(got))
			require.False(t, strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }), "%q", got)
			for line := range strings.Lines(got) {
				require.True(t, isReply(line), "%q", line)
			}
		}
		require.Zero(t, s.Broker.Len())
		require.Zero(t, s.Broker.Stats().Rooms)
	})
}

func isReply(line string) bool {
	for _, prefix := range []string{"* ", "from ", "names: ", "error: "} {
		if strings.HasPrefix(line, prefix) {
			return strings.HasSuffix(line, "\n")
		}
	}
	return false
}

// TestCauses: a user is told about a fault, and about nothing else.
func TestCauses(t *testing.T) {
	for cause, want := range map[error]string{
		core.ErrQuit:                                    "",
		errors.Join(lines.ErrEnd, io.EOF):               "",
		errors.New("too long"):                          "error: too long\n",
		errors.Join(lines.ErrEnd, errors.New("broken")): "",
	} {
		alice := login(t, newServer(), "alice")
		require.NoError(t, alice.Leave(cause))
		require.Equal(t, "* alice joined #room\n"+want, alice.received())
	}
}

// TestLostConnection: when a Writer ends, its name is free. The session neither speaks for the next user
// of the name, nor says that they have left.
func TestLostConnection(t *testing.T) {
	s := newServer()
	bob, old := login(t, s, "bob"), login(t, s, "alice")
	require.NoError(t, old.W.CloseNow())
	again := login(t, s, "alice")
	require.ErrorIs(t, old.Do("#room: I am alice"), net.ErrClosed)
	old.Flush()
	_ = old.Leave(lines.ErrEnd) // its own lines may be lost
	require.NoError(t, again.Do("#room: no, I am"))
	again.Flush()
	require.NoError(t, again.Leave(core.ErrQuit))
	require.NoError(t, bob.Leave(core.ErrQuit))
	require.Equal(t, "* bob joined #room\n* alice joined #room\n* alice joined #room\nfrom alice in #room: no, I am\n"+
		"* alice left #room\n", bob.received())
}
