//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A protocol defines the client side of a kind of server. Members receive all published
// messages. The bytes received for a message are known exactly.
type protocol struct {
	join   func(p *peer, i int) error // makes p the i-th member
	enter  func(p *peer, i int) error // makes p the i-th publisher
	settle func(p *peer) error        // reads unsolicited messages sent some time later; may be nil

	message func(publisher int, payload string) string // sent by a publisher
	frame   func(publisher int, payload string) string // received by a member

	answer   func(payload string, receivers int) string // received by the publisher of a message
	receives bool                                       // publishers receive each other's messages
}

func noAnswer(string, int) string { return "" }

// chatProtocol is the protocol of examples/chat. Publishers log in like members, because only
// users may send. `*` reaches all users but the sender. The query after the login makes sure
// that the server has processed the login.
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

// redisProtocol uses PUBLISH. Redis answers it with the number of receivers.
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

// resp encodes words in the Redis serialization protocol.
func resp(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	return b.String()
}

// natsProtocol is the protocol of a NATS server with its early PING turned off. The next PING
// comes after two minutes, and no connection lasts that long.
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

// systemNATSProtocol also answers the PING sent to each client after two seconds, the default.
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

// mqtt returns an MQTT packet.
func mqtt(kind byte, body string) string {
	return string(binary.AppendUvarint([]byte{kind}, uint64(len(body)))) + body
}

func mqttString(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// hubProtocol is the protocol of the hub in hub.go. Each line goes to all clients, including the
// sender.
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
