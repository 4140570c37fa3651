//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux: it counts with epoll and reads what servers cost from /proc")
	os.Exit(1)
}
