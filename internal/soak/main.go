// Soak sends many messages through Writers and rooms over real sockets and accounts for each one:
//
//	go run ./internal/soak -messages 1000000000
//
// A run is a series of episodes. In each, a Broker has about a hundred members over TCP, Unix
// sockets and TLS, with random limits. Several goroutines send to the room, to names and to
// Writers, while members stall, are reset, end and are taken over. In every third episode, several Writers
// share each name.
//
// At the end of an episode every accepted message must have been written, dropped or handed back.
// Each written message must have arrived whole, in order and once, unless its connection was reset.
// At the end of the run, memory, goroutines and file descriptors must be back where they started.
// Otherwise the exit code is 1. An interrupt ends the run early and prints the figures so far.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

func main() {
	messages := flag.Int64("messages", 1_000_000_000, "number of deliveries `N`; a message to a room of 100 is 100 deliveries")
	seed := flag.Uint64("seed", rand.Uint64(), "`seed` of the random choices")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if !soak(ctx, os.Stdout, *messages, *seed) {
		os.Exit(1)
	}
}

// soak makes the deliveries and prints the figures to out. It reports whether no fault was found.
func soak(ctx context.Context, out io.Writer, messages int64, seed uint64) bool {
	fmt.Fprintf(out, "%d messages, seed %d, %s, GOMAXPROCS %d\n", messages, seed, runtime.Version(), runtime.GOMAXPROCS(0))
	began := time.Now()
	s := &soaker{seed: seed}

	// The first connections of each kind allocate caches in the runtime and in package net.
	s.episode(ctx, min(messages/10, 1_000_000))
	before := measureUsage()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil && len(s.faults) == 0 && s.delivered.Load() < messages {
			s.episode(ctx, min(messages-s.delivered.Load(), 50_000_000))
		}
	}()
	s.progress(out, began, done)
	took := time.Since(began)
	after := measureUsage()
	for deadline := time.Now().Add(5 * time.Second); !after.within(before) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond) // goroutines may take a moment to end
		after = measureUsage()
	}
	if !after.within(before) {
		s.faults = append(s.faults, "memory, goroutines or descriptors were leaked")
	}
	s.table(out, took, before, after)
	return len(s.faults) == 0
}

// progress prints a line every 10 seconds until done is closed.
func (s *soaker) progress(out io.Writer, began time.Time, done <-chan struct{}) {
	const every = 10 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := s.delivered.Load()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		n := s.delivered.Load()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		fmt.Fprintf(out, "%6.0f s  %13d messages  %5.1f M/s  %4d MiB heap  %4d MiB resident  %5d goroutines  %5d descriptors\n",
			time.Since(began).Seconds(), n, float64(n-last)/every.Seconds()/1e6, mem.HeapAlloc>>20, resident()>>20, runtime.NumGoroutine(), descriptors())
		last = n
	}
}

func (s *soaker) table(out io.Writer, took time.Duration, before, after usage) {
	t := s.total
	fmt.Fprintf(out, "\n| | |\n| --- | ---: |\n")
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"accepted", t.accepted}, {"written", t.written}, {"arrived", t.arrived}, {"written, but lost by a reset", t.written - t.arrived},
		{"dropped", t.dropped}, {"undelivered and handed back", t.handedBack}, {"undelivered and taken over", t.inherited},
		{"episodes", t.episodes}, {"connections", t.connections}, {"takeovers", t.takeovers}, {"attached", t.attached}, {"resets", t.resets}, {"stalls", t.stalls},
		{"ended by a limit", t.slow},
	} {
		fmt.Fprintf(out, "| %s | %d |\n", row.name, row.n)
	}
	fmt.Fprintf(out, "| time | %v |\n| rate | %.1f M/s |\n", took.Round(time.Second), float64(t.accepted)/took.Seconds()/1e6)
	fmt.Fprintf(out, "| heap before, after | %d, %d KiB |\n", before.heap>>10, after.heap>>10)
	fmt.Fprintf(out, "| resident before, after | %d, %d KiB |\n", before.resident>>10, after.resident>>10)
	fmt.Fprintf(out, "| goroutines before, after | %d, %d |\n", before.goroutines, after.goroutines)
	fmt.Fprintf(out, "| descriptors before, after | %d, %d |\n", before.descriptors, after.descriptors)
	fmt.Fprintf(out, "| faults | %d |\n", len(s.faults))
	for _, fault := range s.faults {
		fmt.Fprintln(out, fault)
	}
}

// A usage is the process's use of resources.
type usage struct {
	heap, resident          int64 // in bytes
	goroutines, descriptors int
}

func measureUsage() usage {
	runtime.GC()
	debug.FreeOSMemory() // runs a second collection, which empties the pools
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return usage{int64(mem.HeapAlloc), resident(), runtime.NumGoroutine(), descriptors()}
}

// within reports whether s is no larger than before. It allows for memory kept by the runtime
// outside the heap: threads, and records of the largest heap.
func (s usage) within(before usage) bool {
	return s.heap <= before.heap+1<<20 && s.resident <= before.resident+64<<20 &&
		s.goroutines <= before.goroutines && s.descriptors <= before.descriptors
}

// resident returns the size of the resident set in bytes, or 0 without /proc.
func resident() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	_, _ = fmt.Fscan(strings.NewReader(string(statm)), &size, &pages)
	return pages * int64(os.Getpagesize())
}

// descriptors returns the number of open file descriptors, or 0 without /proc.
func descriptors() int {
	fds, _ := os.ReadDir("/proc/self/fd")
	return len(fds)
}
