package server

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const crowdLines = 1500

// Users whose connections break all the time get each line of a room and each line for them once, in
// order. Some connections break before the answer has come.
func TestResumeOfACrowd(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume")
	const users = 6
	var names []string
	var crowd []*counter
	for i := range users {
		c := server.counter(t, fmt.Sprint("user", i))
		c.Say("/join #go")
		crowd, names = append(crowd, c), append(names, c.name)
	}
	writer := server.login(t, "writer")
	writer.Say("/join #go")
	for !strings.Contains(writer.Ask("/who #go"), names[users-1]) {
	}
	go func() { // the writer reads as well, or it would be disconnected
		for {
			if _, err := writer.Lines.ReadString('\n'); err != nil {
				return
			}
		}
	}()
	var readers sync.WaitGroup
	for _, c := range crowd {
		readers.Go(func() {
			next := 0
			for next < crowdLines && c.hearSome(t, &next) {
				c.Reset()
				for rand.IntN(3) == 0 {
					c.Client = server.connect(t)
					c.Say(c.first())
					c.Next() // the user does not get it
					c.Reset()
				}
				c.Client = server.connect(t)
				c.Say(c.first())
				if answer := c.Next(); !assert.Regexp(t, `^\* back: \d+ lines$`, answer) {
					return
				}
				c.times, c.lines = c.times+1, 1
			}
			assert.Equal(t, crowdLines, next)
		})
	}
	for i := range crowdLines {
		if i%2 == 0 {
			writer.Say(fmt.Sprintf("#go: %d", i))
		} else {
			writer.Say(fmt.Sprintf("%s: %d", strings.Join(names, ","), i))
		}
		time.Sleep(time.Millisecond)
	}
	readers.Wait()
	require.NotContains(t, server.stop(t), "missing")
}

// first returns the first line of the next connection.
func (c *counter) first() string { return fmt.Sprintf("%s %s %d %d", c.name, c.key, c.lines, c.times) }

// hearSome takes some lines, and reports whether those of the writer are in order.
func (c *counter) hearSome(t *testing.T, next *int) bool {
	for range 1 + rand.IntN(100) {
		line, n := c.next(), 0
		if _, text, said := strings.Cut(line, ": "); said && strings.HasPrefix(line, "from writer") {
			fmt.Sscan(text, &n)
			if !assert.Equal(t, *next, n, line) {
				return false
			}
			*next++
		}
		if *next == crowdLines {
			break
		}
	}
	return true
}
