package sendq_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		register(t, b, "early", readingPeer())
		require.NoError(t, b.Room("room").Join("early"))
		stop := observe(b)
		synctest.Wait()

		broken := sendqtest.NewConn()
		broken.FailAfter(0, errBroken)
		bob := register(t, b, "bob", broken)
		require.NoError(t, b.Room("room").Join("bob"))
		require.NoError(t, b.Room("room").Join("bob"), "again, which is no event")
		require.NoError(t, b.Room("other").Join("bob"))
		require.True(t, b.Room("other").Leave("bob"))
		require.False(t, b.Room("other").Leave("bob"))
		bob.WriteString("fails")
		<-bob.Done()
		carol := register(t, b, "carol", readingPeer())
		require.True(t, b.Unregister("carol", carol))
		carol.CloseNow()
		dave := register(t, b, "dave", readingPeer())
		require.NoError(t, dave.Close())
		synctest.Wait()

		events := stop()
		for i, want := range []sendq.Event{
			{Kind: sendq.EventJoined, Name: "early"}, // how things were
			{Kind: sendq.EventRoomJoined, Name: "early", Room: "room"},
			{Kind: sendq.EventJoined, Name: "bob"},
			{Kind: sendq.EventRoomJoined, Name: "bob", Room: "room"},
			{Kind: sendq.EventRoomJoined, Name: "bob", Room: "other"},
			{Kind: sendq.EventRoomLeft, Name: "bob", Room: "other"},
			{Kind: sendq.EventRoomLeft, Name: "bob", Room: "room"},
			{Kind: sendq.EventLeft, Name: "bob", Cause: errBroken},
			{Kind: sendq.EventJoined, Name: "carol"},
			{Kind: sendq.EventLeft, Name: "carol"},
			{Kind: sendq.EventJoined, Name: "dave"},
			{Kind: sendq.EventLeft, Name: "dave"},
		} {
			require.Equal(t, want, events[i])
		}
		require.Len(t, events, 12)
		require.NoError(t, b.Shutdown(t.Context()))
	})
}

// A slow observer delays nobody, and learns how many events it missed.
func TestEventsLagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const kept, changes = 4096, 10_000
		b := sendq.NewBroker(nil)
		w := sendq.NewWriter(readingPeer(), nil)
		defer w.CloseNow()
		goOn := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var events []sendq.Event
		done := async(func() error {
			for e := range b.Events(ctx) {
				events = append(events, e)
				if len(events) == 1 {
					<-goOn
				}
			}
			return nil
		})
		synctest.Wait()
		require.NoError(t, b.Register("first", w))
		synctest.Wait()
		for i := range changes / 2 {
			require.NoError(t, b.Register(fmt.Sprint(i), w))
			require.True(t, b.Unregister(fmt.Sprint(i), w))
		}
		close(goOn)
		synctest.Wait()
		require.NoError(t, b.Register("last", w))
		synctest.Wait()
		cancel()
		<-done
		require.Len(t, events, 1+kept+1+1)
		require.Equal(t, sendq.Event{Kind: sendq.EventLagged, Missed: changes - kept}, events[1+kept])
		require.Equal(t, sendq.Event{Kind: sendq.EventJoined, Name: "last"}, events[1+kept+1])
		for i, e := range events[1 : 1+kept] {
			require.Equal(t, fmt.Sprint(i/2), e.Name, "the oldest are there, in order")
		}
	})
}

// From whatever moment one observes, the events lead to the same names and members as Names and
// Members.
func TestEventsTellWhoIsHere(t *testing.T) {
	b := sendq.NewBroker(nil)
	observe := func() <-chan map[string]bool {
		return async(func() map[string]bool {
			here := make(map[string]bool)
			for e := range b.Events(t.Context()) {
				switch key := e.Name + "/" + e.Room; e.Kind {
				case sendq.EventJoined, sendq.EventRoomJoined:
					assert.False(t, here[key], "%v", e)
					assert.True(t, e.Room == "" || here[e.Name+"/"], "%v before its name", e)
					here[key] = true
				case sendq.EventLeft, sendq.EventRoomLeft:
					assert.True(t, here[key], "%v", e)
					delete(here, key)
				default:
					t.Errorf("%v", e)
				}
				if e.Name == "last" {
					break
				}
			}
			return here
		})
	}
	var observers []<-chan map[string]bool
	var work sync.WaitGroup
	for worker := range 8 {
		observers = append(observers, observe())
		work.Go(func() {
			for i := range 60 {
				name, room := fmt.Sprint(worker, i%3), func() *sendq.Room { return b.Room(fmt.Sprint(rand.IntN(3))) }
				w := register(t, b, name, readingPeer())
				assert.NoError(t, room().Join(name))
				room().Leave(name)
				assert.NoError(t, room().Join(name))
				if i < 57 {
					w.CloseNow()
				}
			}
		})
	}
	work.Wait()
	observers = append(observers, observe())
	register(t, b, "last", readingPeer())

	want := make(map[string]bool)
	for name := range b.Names() {
		want[name+"/"] = true
	}
	for i := range 3 {
		for name := range b.Room(fmt.Sprint(i)).Members() {
			want[fmt.Sprint(name, "/", i)] = true
		}
	}
	require.Greater(t, len(want), 24)
	for _, observer := range observers {
		require.Equal(t, want, <-observer)
	}
	require.NoError(t, b.Shutdown(t.Context()))
}

// An iteration ends with its context or its loop, and leaves no goroutine.
func TestEventsEnd(t *testing.T) {
	b := sendq.NewBroker(nil)
	register(t, b, "bob", readingPeer())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for e := range b.Events(ctx) {
		require.Equal(t, "bob", e.Name)
		cancel()
	}
	for range b.Events(ctx) {
		t.Fatal("an event after the end")
	}
	for range b.Events(t.Context()) {
		break
	}
	require.NoError(t, b.Shutdown(t.Context()))
}
