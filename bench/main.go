//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A bench is one run of this program.
type bench struct {
	config
	services []service
	dir      string // temporary files, removed at the end of the run
	quiet    bool   // no progress
}

// progress prints the current step.
func (b *bench) progress(format string, args ...any) {
	if !b.quiet {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
}

// findings are the results of a section.
type findings struct {
	tables []table
	charts []chart
	goals  []goal
}

// A section measures one thing.
type section struct {
	name string
	run  func(b *bench) (findings, error)
}

var sections = []section{
	{"writer", (*bench).runWriter},
	{"roundtrip", (*bench).runRoundtrip},
	{"fanout", (*bench).runFanout},
	{"stalled", (*bench).runStalled},
	{"idle", (*bench).runIdle},
	{"relay", (*bench).runRelay},
	{"reconnect", (*bench).runReconnect},
}

// flags are the command-line flags.
type flags struct {
	quick, write bool
	only         string
	rounds, idle int
	out          string
}

func main() {
	serveIfAsked()
	var f flags
	flag.BoolVar(&f.quick, "quick", false, "measure less, and less precisely: a few minutes")
	flag.StringVar(&f.only, "only", "", "comma-separated `sections` to measure: writer, roundtrip, fanout, stalled, idle, relay, reconnect (default all)")
	flag.IntVar(&f.rounds, "rounds", 0, "measure everything `N` times and take the median (default 3)")
	flag.IntVar(&f.idle, "idle", -1, "hold `N` idle chat connections, 0 for none; if negative, 100000, or 0 with -quick")
	flag.BoolVar(&f.write, "write", false, "write RESULTS.md, the plots, and the tables between markers in README.md")
	flag.StringVar(&f.out, "out", "", "write RESULTS.md and the plots to this `directory` (default bench/ of the clone)")
	flag.Parse()

	err := fmt.Errorf("unexpected argument %q; -help lists the flags", flag.Arg(0))
	if flag.NArg() == 0 {
		err = run(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(f flags) error {
	chosen, err := chooseSections(f.only)
	if err != nil {
		return err
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sendq-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cleanUpOnInterrupt(dir)

	b := &bench{config: f.config(), dir: dir}
	o := originOf(root, b.rounds)
	if b.services, err = services(dir, root, o.revision); err != nil {
		return err
	}
	r := newResults(o)
	var goals []goal
	for _, s := range chosen {
		b.progress("%s", s.name)
		found, err := s.run(b)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.add(s.name, found, os.Stdout)
		goals = append(goals, found.goals...)
	}
	if len(goals) > 0 {
		r.addGoals(findings{tables: []table{goalTable(goals)}}, os.Stdout)
	}
	if !f.write {
		return nil
	}
	if f.out == "" {
		f.out = filepath.Join(root, "bench")
	}
	return r.write(f.out, filepath.Join(root, "README.md"))
}

func (f *flags) config() config {
	c := fullConfig()
	if f.quick {
		c = quickConfig()
	}
	if f.rounds > 0 {
		c.rounds = f.rounds
	}
	if f.idle >= 0 {
		c.idle.many = f.idle
	}
	return c
}

func chooseSections(only string) ([]section, error) {
	if only == "" {
		return sections, nil
	}
	var chosen []section
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(sections, func(s section) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("no such section: %q", name)
		}
		chosen = append(chosen, sections[i])
	}
	return chosen, nil
}

// findRoot returns the directory of the clone.
func findRoot() (string, error) {
	const module = "github.com/sendq-go/sendq"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("find the sources of %s (run bench in a clone): %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// cleanUpOnInterrupt ends the program and its children on an interrupt or SIGTERM.
func cleanUpOnInterrupt(dir string) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-interrupted
		children.killAll()
		os.RemoveAll(dir)
		fmt.Fprintln(os.Stderr, "bench:", s)
		os.Exit(1)
	}()
}
