//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// members is a process with the members [first, last) of a chat. It reports progress in lines on
// its standard output and ends at the end of its standard input.
type members struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	output *bufio.Reader
}

// The lines of a members process: all its members are logged in; all have received the message.
const (
	reportConnected = "connected"
	reportReceived  = "got it"
)

func startMembers(server netip.AddrPort, first, last int) (*members, error) {
	cmd, err := self(fmt.Sprintf("members %d %d", first, last))(server)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	m := &members{cmd: cmd}
	if m.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.output = bufio.NewReader(stdout)
	return m, startAttached(cmd)
}

// await waits for a line of the members process.
func (m *members) await(what string) error {
	line, err := m.output.ReadString('\n')
	if strings.TrimSpace(line) != what {
		return fmt.Errorf("members process: expected %q, got %q: %w", what, line, err)
	}
	return nil
}

func (m *members) stop() {
	m.stdin.Close()
	_ = m.cmd.Wait()
}

// parallelLogins is the number of members of a process that log in at the same time.
const parallelLogins = 16

// serveMembers runs a members process; see startMembers.
func serveMembers(first, last string, server netip.AddrPort) error {
	from, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	to, err := strconv.Atoi(last)
	if err != nil {
		return err
	}
	p := chatProtocol()
	members := make([]*peer, to-from)
	errs := make([]error, parallelLogins)
	var joining sync.WaitGroup
	for turn := range parallelLogins {
		joining.Go(func() {
			for i := turn; i < len(members) && errs[turn] == nil; i += parallelLogins {
				if members[i], errs[turn] = connect(server, from+i, false); errs[turn] == nil {
					errs[turn] = p.join(members[i], from+i)
				}
			}
		})
	}
	joining.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println(reportConnected)
	frame := p.frame(0, payload)
	for i, m := range members {
		if err := m.expect(frame); err != nil {
			return fmt.Errorf("member %d: %w", from+i, err)
		}
		var more [1]byte
		if n, _, err := unix.Recvfrom(m.fd, more[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EAGAIN {
			return fmt.Errorf("member %d received more than one message: %d bytes, %w", from+i, n, err)
		}
	}
	fmt.Println(reportReceived)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
