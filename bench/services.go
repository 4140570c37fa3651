//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
)

// A service is a kind of server that fans out messages: sendq's chat, or a rival.
type service struct {
	name     string
	version  string
	missing  string // why it cannot be measured, or empty
	protocol protocol
	command  func(addr netip.AddrPort) (*exec.Cmd, error)
}

const (
	chatName       = "sendq chat"
	redisName      = "Redis"
	natsName       = "NATS"
	systemNATSName = "NATS (installed)"
	hubName        = "Go hub of channels"
)

// services returns the chat and its rivals. They keep their files in dir.
func services(dir, root, revision string) ([]service, error) {
	chat, err := chatService(dir, root, revision)
	if err != nil {
		return nil, err
	}
	mosquitto, err := mosquittoService(dir)
	if err != nil {
		return nil, err
	}
	return []service{
		chat,
		redisService(dir),
		{name: natsName, version: moduleVersion("github.com/nats-io/nats-server/v2"), protocol: natsProtocol(), command: self("nats")},
		systemNATSService(),
		mosquitto,
		{name: hubName, version: "modelled on gorilla/websocket's chat example", protocol: hubProtocol(), command: self("hub")},
	}, nil
}

// start starts a server for a number of connections.
func (s *service) start(connections int) (*child, error) {
	allowed, err := allowConnections(connections)
	if err != nil {
		return nil, err
	}
	if allowed < connections {
		return nil, errors.New(raiseLimitHint(connections))
	}
	return startChild(s.command)
}

func chatService(dir, root, revision string) (service, error) {
	chat := filepath.Join(dir, "chat")
	build := exec.Command("go", "build", "-o", chat, "./examples/chat")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return service{}, fmt.Errorf("build examples/chat: %w: %s", err, output)
	}
	return service{name: chatName, version: revision, protocol: chatProtocol(), command: func(addr netip.AddrPort) (*exec.Cmd, error) {
		return exec.Command(chat, "-addr", addr.String()), nil
	}}, nil
}

// redisService is Redis without persistence. Protected mode is off, because it would refuse
// connections from loopback addresses other than 127.0.0.1.
func redisService(dir string) service {
	s := service{name: redisName, protocol: redisProtocol()}
	redis := s.find("redis-server", `v=(\S+)`, "--version")
	s.command = func(addr netip.AddrPort) (*exec.Cmd, error) {
		return exec.Command(redis, "--bind", addr.Addr().String(), "--port", strconv.Itoa(int(addr.Port())), "--dir", dir,
			"--save", "", "--appendonly", "no", "--protected-mode", "no", "--loglevel", "warning", "--maxclients", "120000"), nil
	}
	return s
}

// systemNATSService is the system's nats-server. Debian's version is some years old.
func systemNATSService() service {
	s := service{name: systemNATSName, protocol: systemNATSProtocol()}
	nats := s.find("nats-server", `v(\d\S*)`, "--version")
	s.command = func(addr netip.AddrPort) (*exec.Cmd, error) {
		return exec.Command(nats, "-a", addr.Addr().String(), "-p", strconv.Itoa(int(addr.Port()))), nil
	}
	return s
}

// mosquittoService is Mosquitto without its queue limit, because it would drop messages of a
// burst, and without Nagle's algorithm, because it would wait for acknowledgements.
func mosquittoService(dir string) (service, error) {
	s := service{name: "Mosquitto", protocol: mqttProtocol()}
	mosquitto := s.find("mosquitto", `version (\S+)`, "-h")
	me, err := user.Current()
	if err != nil {
		return service{}, fmt.Errorf("find the current user: %w", err)
	}
	s.command = func(addr netip.AddrPort) (*exec.Cmd, error) {
		config := filepath.Join(dir, fmt.Sprintf("mosquitto-%d.conf", addr.Port()))
		settings := fmt.Sprintf("listener %d %v\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n"+
			"persistence false\nlog_type error\nuser %s\n", addr.Port(), addr.Addr(), me.Username)
		if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
			return nil, fmt.Errorf("configure Mosquitto: %w", err)
		}
		return exec.Command(mosquitto, "-c", config), nil
	}
	return s, nil
}

// find looks for a program and asks it for its version. It also looks in /usr/sbin: Debian
// installs daemons there, and the PATH of a user may lack it.
func (s *service) find(program, version string, ask string) (path string) {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	if err != nil {
		s.missing = program + " is not installed"
		return ""
	}
	output, _ := exec.Command(path, ask).CombinedOutput() // mosquitto -h exits with 3
	if found := regexp.MustCompile(version).FindSubmatch(output); found != nil {
		s.version = string(found[1])
	}
	return path
}

// moduleVersion returns the version of a module built into this program.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == path {
				return module.Version
			}
		}
	}
	return "of unknown version"
}

// serveVariable is an environment variable. If it is set, this program runs as a server.
const serveVariable = "SENDQ_BENCH_SERVE"

// self returns the command that runs this program as a server of a kind; see serve.
func self(kind string) func(addr netip.AddrPort) (*exec.Cmd, error) {
	return func(addr netip.AddrPort) (*exec.Cmd, error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), serveVariable+"="+kind+" "+addr.String())
		return cmd, nil
	}
}
