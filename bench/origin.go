//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An origin records the circumstances of a measurement. Figures mean little without it.
type origin struct {
	revision string // of sendq
	machine  string
	command  string
	date     string
	rounds   int
}

func originOf(root string, rounds int) origin {
	return origin{
		revision: revisionOf(root),
		machine:  machine(),
		command:  strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " "),
		date:     time.Now().Format(time.DateOnly),
		rounds:   rounds,
	}
}

// revisionOf returns the commit, and marks a dirty working tree.
func revisionOf(root string) string {
	git := exec.Command("git", "describe", "--always", "--dirty", "--tags")
	git.Dir = root
	out, err := git.Output()
	if err != nil {
		return "of unknown version"
	}
	return strings.TrimSpace(string(out))
}

func machine() string {
	model := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if found := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(info); found != nil {
			model = strings.TrimSpace(string(found[1]))
		}
	}
	system := runtime.GOOS
	if release, err := os.ReadFile("/etc/os-release"); err == nil {
		if found := regexp.MustCompile(`(?m)^PRETTY_NAME="?([^"\n]*)`).FindSubmatch(release); found != nil {
			system = string(found[1])
		}
	}
	kernel := "unknown kernel"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%s, %d cores, %s, %s, %s", model, runtime.NumCPU(), system, kernel, runtime.Version())
}
