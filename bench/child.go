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

// A child is a server that runs as a process of its own and listens on the loopback
// interface.
type child struct {
	cmd    *exec.Cmd
	addr   netip.AddrPort
	log    *os.File // what it says
	exited chan struct{}
}

// startTimeout bounds how long a server may take until it accepts connections.
const startTimeout = 20 * time.Second

// startChild starts the server that command returns for a free port, and waits until it
// accepts connections. The process does not outlive this one, whatever ends it.
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
		return nil, fmt.Errorf("a file for what %s says: %w", c.cmd.Path, err)
	}
	os.Remove(c.log.Name()) // it is open, which will do
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log

	if err := children.start(c); err != nil {
		c.log.Close()
		return nil, fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is no matter: stop kills it
		close(c.exited)
	}()
	if err := c.awaitAccept(); err != nil {
		err = fmt.Errorf("%s: %w: %s", c.cmd.Path, err, c.lastOutput())
		c.stop()
		return nil, err
	}
	return c, nil
}

// freeAddr returns an address on which nobody listens, and hopefully nobody will.
func freeAddr() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

var starts = make(chan func())

// startStarter starts the goroutine that starts all children, on a thread of its own: a
// child with a Pdeathsig is killed when the thread that started it ends.
var startStarter = sync.OnceFunc(func() {
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
})

// startForLife starts a command, which ends with this process at the latest.
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
			return errors.New("has ended at once")
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("accepts no connection: %w", err)
		}
	}
}

// said returns the last of what the server had to say, in one line.
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

// stop ends the server. There is nothing to be kept.
func (c *child) stop() {
	children.remove(c)
	c.kill()
	c.log.Close()
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // fails only if it has ended
	<-c.exited
}

// children are those that run, for the end by an interrupt.
var children childSet

type childSet struct {
	mu      sync.Mutex
	running map[*child]bool
}

func (n *childSet) start(c *child) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := startAttached(c.cmd); err != nil {
		return err
	}
	if n.running == nil {
		n.running = make(map[*child]bool)
	}
	n.running[c] = true
	return nil
}

func (n *childSet) remove(c *child) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.running, c)
}

// killAll ends all that run, for good: it keeps the lock, so that whoever would start another
// one, or notices that one has ended, gets no further.
func (n *childSet) killAll() {
	n.mu.Lock()
	for c := range n.running {
		c.kill()
	}
}
