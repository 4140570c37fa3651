package netlab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// A Host is a network namespace.
type Host struct {
	number byte
	calls  chan func()
	err    error      // from creating the namespace
	tuns   []*os.File // the host's ends of the paths
}

func newHost(number byte) *Host {
	h := &Host{number: number, calls: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		h.err = enterNewNamespace()
		for f := range h.calls {
			f()
		}
	}()
	return h
}

// Do runs f on a thread in the host's namespace. Sockets created by f stay in that namespace,
// wherever they are used later. Calls of Do are serialized. f must not end its goroutine.
func (h *Host) Do(f func()) {
	done := make(chan struct{})
	h.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Addr returns the host's address on a path.
func (h *Host) Addr(path int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(path), h.number})
}

// attach creates the host's end of a path.
func (h *Host) attach(path int) (tun *os.File, err error) {
	h.Do(func() {
		if err = h.err; err == nil {
			tun, err = openTUN(device(path))
		}
	})
	if err == nil {
		h.tuns = append(h.tuns, tun)
	}
	return tun, err
}

// close ends the host. The namespace lives until its sockets are closed too.
func (h *Host) close() {
	for _, tun := range h.tuns {
		tun.Close()
	}
	close(h.calls)
}

func device(path int) string { return fmt.Sprintf("path%d", path) }

// configure brings the host's devices up.
func (h *Host) configure(paths int) (err error) {
	var commands strings.Builder
	fmt.Fprintln(&commands, "link set lo up")
	for i := range paths {
		// Without generated addresses the kernel sends no packets of its own. With the
		// long queue it loses none.
		fmt.Fprintf(&commands, "link set %s addrgenmode none\n", device(i))
		fmt.Fprintf(&commands, "link set %s txqueuelen 10000 up\n", device(i))
		fmt.Fprintf(&commands, "addr add %s/24 dev %s\n", h.Addr(i), device(i))
	}
	if paths > 1 {
		fmt.Fprintln(&commands, "mptcp limits set subflows 8 add_addr_accepted 8")
		for i := 1; i < paths && h.number == 2; i++ {
			// B announces the address to A, and A connects to it.
			fmt.Fprintf(&commands, "mptcp endpoint add %s signal\n", h.Addr(i))
		}
	}
	ip := exec.Command("ip", "-batch", "-")
	ip.Stdin = strings.NewReader(commands.String())
	var output []byte
	h.Do(func() { output, err = ip.CombinedOutput() })
	if err != nil {
		return fmt.Errorf("ip: %w: %s", err, output)
	}
	return nil
}
