//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A protocol is how one speaks with a kind of server. Members get everything that
// publishers publish; what each of them gets for a message is known to the byte.
type protocol struct {
	join   func(p *peer, i int) error // makes p the i-th member
	enter  func(p *peer, i int) error // makes p the i-th publisher
	settle func(p *peer) error        // takes what the server has to say some time after that; may be nil

	message func(publisher int, payload string) string // published like this
	frame   func(publisher int, payload string) string // and what a member gets

	// What a publisher gets, for its own message, which so many have got, and
	// whether it gets those of the others as members do.
	answer   func(payload string, receivers int) string
	receives bool
}

func noAnswer(string, int) string { return "" }

// chatProtocol is that of examples/chat. Publishers are logged in like the members, for
// nobody else may speak, and `*` reaches all but the sender. The question after the login
// makes sure that the server has seen it.
func chatProtocol() protocol {
	login := func(kind string) func(p *peer, i int) error {
		return func(p *peer, i int) error {
			if err := p.send(fmt.Sprintf("%s%d\n/who #nobody\n", kind, i)); err != nil {
				return err
			}
			return p.expect("names: \n")
		}
	}
	return protocol{
		join:     login("member"),
		enter:    login("p"),
		message:  func(_ int, payload string) string { return "*: " + payload + "\n" },
		frame:    func(i int, payload string) string { return fmt.Sprintf("from p%d: %s\n", i, payload) },
		answer:   noAnswer,
		receives: true,
	}
}

// redisProtocol publishes with PUBLISH, to which Redis answers how many got the message.
func redisProtocol() protocol {
	return protocol{
		join: func(p *peer, _ int) error {
			if err := p.send(resp("SUBSCRIBE", "bench")); err != nil {
				return err
			}
			return p.expect("*3\r\n$9\r\nsubscribe\r\n$5\r\nbench\r\n:1\r\n")
		},
		enter: func(p *peer, _ int) error {
			if err := p.send(resp("PING")); err != nil {
				return err
			}
			return p.expect("+PONG\r\n")
		},
		message: func(_ int, payload string) string { return resp("PUBLISH", "bench", payload) },
		frame:   func(_ int, payload string) string { return resp("message", "bench", payload) },
		answer:  func(_ string, receivers int) string { return fmt.Sprintf(":%d\r\n", receivers) },
	}
}

// resp returns words as Redis sends and understands them.
func resp(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	return b.String()
}

// natsProtocol is that of a server which sends no PING for the first two minutes. A
// connection does not last as long.
func natsProtocol() protocol {
	greet := func(and string) func(p *peer, _ int) error {
		return func(p *peer, _ int) error {
			if err := p.send(`CONNECT {"verbose":false}` + "\r\n" + and + "PING\r\n"); err != nil {
				return err
			}
			return p.expectLine("PONG")
		}
	}
	return protocol{
		join:  greet("SUB bench 1\r\n"),
		enter: greet(""),
		message: func(_ int, payload string) string {
			return fmt.Sprintf("PUB bench %d\r\n%s\r\n", len(payload), payload)
		},
		frame: func(_ int, payload string) string {
			return fmt.Sprintf("MSG bench 1 %d\r\n%s\r\n", len(payload), payload)
		},
		answer: noAnswer,
	}
}

// oldNATSProtocol answers the PING that a server, unless it is told otherwise, sends each
// client after two seconds.
func systemNATSProtocol() protocol {
	p := natsProtocol()
	p.settle = func(p *peer) error {
		if err := p.expectLine("PING"); err != nil {
			return err
		}
		return p.send("PONG\r\n")
	}
	return p
}

// mqttProtocol is MQTT 3.1.1 with QoS 0.
func mqttProtocol() protocol {
	hello := func(kind string) func(p *peer, i int) error {
		return func(p *peer, i int) error {
			const cleanSession, noKeepAlive = "\x02", "\x00\x00"
			client := fmt.Sprintf("%s%d", kind, i)
			if err := p.send(mqtt(0x10, mqttString("MQTT")+"\x04"+cleanSession+noKeepAlive+mqttString(client))); err != nil {
				return err
			}
			return p.expect("\x20\x02\x00\x00") // CONNACK
		}
	}
	publish := func(_ int, payload string) string { return mqtt(0x30, mqttString("bench")+payload) }
	return protocol{
		join: func(p *peer, i int) error {
			if err := hello("member")(p, i); err != nil {
				return err
			}
			if err := p.send(mqtt(0x82, "\x00\x01"+mqttString("bench")+"\x00")); err != nil {
				return err
			}
			return p.expect("\x90\x03\x00\x01\x00") // SUBACK
		},
		enter:   hello("publisher"),
		message: publish,
		frame:   publish,
		answer:  noAnswer,
	}
}

// mqtt returns a packet.
func mqtt(kind byte, body string) string {
	return string(binary.AppendUvarint([]byte{kind}, uint64(len(body)))) + body
}

func mqttString(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// hubProtocol is that of the hub in hub.go: lines, which go to all, the sender included.
func hubProtocol() protocol {
	line := func(_ int, payload string) string { return payload + "\n" }
	enter := func(p *peer, _ int) error { return p.expect(hubWelcome) }
	return protocol{
		join:     enter,
		enter:    enter,
		message:  line,
		frame:    line,
		answer:   func(payload string, _ int) string { return line(0, payload) },
		receives: true,
	}
}
