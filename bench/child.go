//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A child is a server process on the loopback interface.
type child struct {
	cmd    *exec.Cmd
	addr   netip.AddrPort
	log    *os.File // its output
	exited chan struct{}
}

// startTimeout is the time a server may take to accept connections.
const startTimeout = 20 * time.Second

// startChild starts the server command for a free port and waits until it accepts
// connections. The process never outlives this one.
func startChild(command func(addr netip.AddrPort) (*exec.Cmd, error)) (*child, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd, err := command(addr)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, addr: addr, exited: make(chan struct{})}
	if c.log, err = os.CreateTemp("", "sendq-bench-*.log"); err != nil {
		return nil, fmt.Errorf("create a log file for %s: %w", c.cmd.Path, err)
	}
	os.Remove(c.log.Name()) // the open file is enough
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log

	if err := children.start(c); err != nil {
		c.log.Close()
		return nil, fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	go func() {
		_ = c.cmd.Wait() // the status does not matter: stop kills the process
		close(c.exited)
	}()
	if err := c.awaitAccept(); err != nil {
		err = fmt.Errorf("%s: %w: %s", c.cmd.Path, err, c.lastOutput())
		c.stop()
		return nil, err
	}
	return c, nil
}

// freeAddr returns an address with a free port. Another process may still take the port.
func freeAddr() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

var starts = make(chan func())

// startStarter starts the goroutine that starts all children. It keeps its own thread,
// because a child with a Pdeathsig is killed when the parent thread ends.
var startStarter = sync.OnceFunc(func() {
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
})

// startAttached starts a command. The kernel kills it when this process ends.
func startAttached(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	startStarter()
	starts <- func() { started <- cmd.Start() }
	return <-started
}

func (c *child) awaitAccept() error {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", c.addr.String())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-c.exited:
			return errors.New("exited at once")
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("does not accept connections: %w", err)
		}
	}
}

// lastOutput returns the end of the server's output as one line.
func (c *child) lastOutput() string {
	const most = 2 << 10
	size, err := c.log.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	last := make([]byte, min(size, most))
	n, _ := c.log.ReadAt(last, size-int64(len(last)))
	return strings.Join(strings.Fields(string(last[:n])), " ")
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop kills the server.
func (c *child) stop() {
	children.remove(c)
	c.kill()
	c.log.Close()
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // fails only if the process has ended
	<-c.exited
}

// children are the running children. An interrupt kills them.
var children childSet

type childSet struct {
	mu      sync.Mutex
	running map[*child]bool
}

func (s *childSet) start(c *child) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := startAttached(c.cmd); err != nil {
		return err
	}
	if s.running == nil {
		s.running = make(map[*child]bool)
	}
	s.running[c] = true
	return nil
}

func (s *childSet) remove(c *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, c)
}

// killAll kills all children. It keeps the lock, so no child starts or stops afterwards.
func (s *childSet) killAll() {
	s.mu.Lock()
	for c := range s.running {
		c.kill()
	}
}
