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
	// demoMaxPending is maxPending in the demo. It is small, so that users can watch a queue
	// reach it.
	demoMaxPending = 256 << 10

	longestStall = 5 * time.Minute

	robotName, robotRoom = "robot", "#lobby"
	robotPause           = 50 * time.Millisecond
)

// A demo lets users stall their connection. A nil *demo does not.
type demo struct {
	mu      sync.Mutex
	stalled map[string]staller // by user
	changed chan struct{}      // has a value after a new stall
}

// A staller can stall its writes.
type staller interface {
	start(time.Duration)
	isOn() bool
}

func newDemo() *demo {
	return &demo{stalled: make(map[string]staller), changed: make(chan struct{}, 1)}
}

// command does /stall SECONDS. It is the Command of server.Options.
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

// names returns the stalled users, in no order.
func (d *demo) names() []string {
	if d == nil {
		return []string{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.stalled, func(_ string, c staller) bool { return !c.isOn() })
	return slices.AppendSeq([]string{}, maps.Keys(d.stalled))
}

// addRobot registers the robot, and puts it in its room.
func addRobot(b *sendq.Broker) error {
	conn, peer := net.Pipe()
	go io.Copy(io.Discard, peer)
	if err := b.Register(robotName, sendq.NewWriter(conn, nil)); err != nil {
		return err
	}
	return b.Room(robotRoom).Join(robotName)
}

// runRobot talks while a user is stalled, to fill the queue of that user.
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
