package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

const (
	// demoMaxPending is how many bytes may be queued for a user, so that one can see what
	// happens then.
	demoMaxPending = 256 << 10

	longestStall = 5 * time.Minute

	robotName, robotRoom = "robot", "#lobby"
	robotPause           = 50 * time.Millisecond
)

// A demo lets users see what a stalled connection does. A nil *demo does not.
type demo struct {
	mu      sync.Mutex
	stalled map[string]staller // by the user's name
	changed chan struct{}      // has a value if somebody has been stalled
}

// A staller is a connection that can be stalled.
type staller interface {
	start(time.Duration)
	isOn() bool
}

func newDemo() *demo {
	return &demo{stalled: make(map[string]staller), changed: make(chan struct{}, 1)}
}

// command does /stall SECONDS. It is the Command of the chat.
func (d *demo) command(user string, conn net.Conn, words []string) bool {
	if len(words) != 2 || words[0] != "/stall" {
		return false
	}
	seconds, err := strconv.Atoi(words[1])
	c, ok := conn.(staller)
	if err != nil || !ok || seconds < 1 {
		return false
	}
	c.start(min(time.Duration(seconds)*time.Second, longestStall))
	d.mu.Lock()
	d.stalled[user] = c
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default:
	}
	return true
}

// names returns who is stalled, in no order.
func (d *demo) names() []string {
	if d == nil {
		return []string{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.stalled, func(_ string, c staller) bool { return !c.isOn() })
	return slices.AppendSeq([]string{}, maps.Keys(d.stalled))
}

// addRobot makes the robot a user, who says nothing yet.
func addRobot(b *sendq.Broker) error {
	conn, peer := net.Pipe()
	go io.Copy(io.Discard, peer)
	if err := b.Register(robotName, sendq.NewWriter(conn, nil)); err != nil {
		return err
	}
	return b.Room(robotRoom).Join(robotName)
}

// runRobot talks while somebody is stalled, so that there is something that they do not get.
func (d *demo) runRobot(ctx context.Context, b *sendq.Broker) error {
	for n := 1; ; n++ {
		if len(d.names()) == 0 {
			select {
			case <-d.changed:
			case <-ctx.Done():
				return nil
			}
		}
		text := fmt.Sprintf("from %s in %s: %d %s\n", robotName, robotRoom, n, strings.Repeat("so much to say ", 64))
		b.Room(robotRoom).PublishFrom(robotName, frameOf([]byte(text)))
		select {
		case <-time.After(robotPause):
		case <-ctx.Done():
			return nil
		}
	}
}
