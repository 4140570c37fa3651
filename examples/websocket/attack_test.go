package websocket_test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An attack is what a client sends after its handshake.
type attack struct {
	name   string
	send   []byte
	code   int            // of the server's close frame; 0 means that the client goes first
	heard  []string       // the messages for all
	except map[string]int // the codes of libraries without the right answer
}

// codeOf returns the code for a server of a library.
func (a attack) codeOf(served string) int {
	library, _, _ := strings.Cut(served, " ")
	if code, ok := a.except[library]; ok {
		return code
	}
	return a.code
}

// frames joins frames.
func frames(f ...[]byte) []byte { return bytes.Join(f, nil) }

// attacks returns all attacks. In those that are none, the client closes with code 1000.
func attacks() []attack {
	const protocolError, wrongKind, wrongText, tooBig = 1002, 1003, 1007, 1009
	bye := closeFrame(1000, "")
	hello := []string{"hello"}
	x := func(n int) string { return strings.Repeat("x", n) }
	longest := []byte{127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	negative := []byte{127, 0x80, 0, 0, 0, 0, 0, 0, 1}
	all := []attack{
		{name: "text", send: frames(masked(final|textual, "hello"), bye), code: 1000, heard: hello},
		{name: "ping between fragments", send: frames(
			masked(textual, "he"), masked(final|ping, "?"), masked(continuation, ""), masked(final|continuation, "llo"), bye,
		), code: 1000, heard: hello},
		{name: "character in two fragments", send: frames(masked(textual, "\xc3"), masked(final|continuation, "\xa9"), bye),
			code: 1000, heard: []string{"é"}},
		{name: "control frames of 125 bytes", send: frames(
			masked(final|ping, strings.Repeat("?", 125)), masked(final|pong, strings.Repeat("!", 125)),
			closeFrame(1000, x(123)),
		), code: 1000},
		{name: "message as long as allowed", send: frames(masked(final|textual, x(32<<10)), bye),
			code: 1000, heard: []string{x(32 << 10)}},
		{name: "text after the close", send: frames(bye, masked(final|textual, "hello")), code: 1000},

		{name: "fragment without a beginning", send: masked(final|continuation, "x"), code: protocolError},
		{name: "fragment after the end", send: frames(
			masked(textual, "hel"), masked(final|continuation, "lo"), masked(final|continuation, "x"),
		), code: protocolError, heard: hello},
		{name: "text between fragments", send: frames(masked(textual, "a"), masked(final|textual, "b")), code: protocolError},
		{name: "binary between fragments", send: frames(masked(textual, "a"), masked(binaryData, "b")), code: protocolError},
		{name: "reserved bit in a fragment", send: frames(masked(textual, "a"), masked(final|rsv1|continuation, "b")),
			code: protocolError},

		{name: "binary", send: masked(final|binaryData, "hello"), code: wrongKind},
		{name: "binary in fragments", send: frames(masked(binaryData, "a"), masked(final|continuation, "b")), code: wrongKind},
		{name: "text, then binary", send: frames(masked(final|textual, "hello"), masked(final|binaryData, "x")),
			code: wrongKind, heard: hello},

		{name: "half a character in each fragment", send: frames(masked(textual, "\xc3"), masked(final|continuation, "\xc3")),
			code: wrongText},
		{name: "half a character, an empty fragment", send: frames(masked(textual, "\xc3"), masked(final|continuation, "")),
			code: wrongText},
		{name: "half a character, a ping", send: frames(
			masked(textual, "\xc3"), masked(final|ping, "\xa9"), masked(final|continuation, ""),
		), code: wrongText},

		{name: "long message", send: masked(final|textual, x(32<<10+1)), code: tooBig},
		{name: "very long message", send: masked(final|textual, x(1<<20)), code: tooBig},
		{name: "length of all 63 bits", send: maskedAs(final|textual, x(32<<10+1), longest...), code: tooBig},
		{name: "endless fragments", send: frames(masked(textual, "x"), bytes.Repeat(masked(continuation, x(1<<10)), 100)),
			code: tooBig},
		{name: "length of all 63 bits after a fragment", send: frames(
			masked(textual, "x"), maskedAs(continuation, x(32<<10), longest...)),
			code: tooBig, except: map[string]int{"gorilla": protocolError}},

		{name: "negative length", send: maskedAs(final|textual, "x", negative...), code: protocolError},
		{name: "negative length of a ping", send: maskedAs(final|ping, "x", negative...), code: protocolError},
		{name: "length in 2 bytes, not in 7 bits", send: frames(maskedAs(final|textual, "hello", 126, 0, 5), bye),
			code: 1000, heard: hello},
		{name: "length in 8 bytes, not in 7 bits", send: frames(maskedAs(final|textual, "hello", 127, 0, 0, 0, 0, 0, 0, 0, 5), bye),
			code: 1000, heard: hello},
		{name: "length of a ping in 2 bytes", send: frames(maskedAs(final|ping, "hello", 126, 0, 5), bye),
			code: 1000, except: map[string]int{"gorilla": protocolError}},

		{name: "close with 1 byte", send: masked(final|closing, "\x03"), code: protocolError,
			except: map[string]int{"gorilla": 1005}},
		{name: "close with a reason that is no text", send: closeFrame(1000, "\xff"), code: protocolError,
			except: map[string]int{"coder": 1000}},
	}
	for _, bit := range []byte{rsv1, rsv2, rsv3, rsv1 | rsv2 | rsv3} {
		all = append(all,
			attack{name: fmt.Sprintf("text with bit %#x", bit), send: masked(final|bit|textual, "x"), code: protocolError},
			attack{name: fmt.Sprintf("ping with bit %#x", bit), send: masked(final|bit|ping, "x"), code: protocolError},
			attack{name: fmt.Sprintf("close with bit %#x", bit), send: masked(final|bit|closing, "\x03\xe8"), code: protocolError})
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		all = append(all,
			attack{name: fmt.Sprintf("opcode %#x", opcode), send: masked(final|opcode, "x"), code: protocolError},
			attack{name: fmt.Sprintf("opcode %#x in a fragment", opcode), send: frames(masked(textual, "x"), masked(opcode, "")),
				code: protocolError})
	}
	for name, opcode := range map[string]byte{"ping": ping, "pong": pong, "close": closing} {
		payload := "\x03\xe8" + x(124)
		all = append(all,
			attack{name: name + " of 126 bytes", send: masked(final|opcode, payload), code: protocolError},
			attack{name: name + " of 126 bytes between fragments", send: frames(masked(textual, "x"), masked(final|opcode, payload)),
				code: protocolError},
			attack{name: name + " of 70,000 bytes", send: masked(final|opcode, strings.Repeat(payload, 556)), code: protocolError},
			attack{name: name + " in fragments", send: frames(masked(opcode, ""), masked(final|continuation, "")), code: protocolError})
	}
	for name, text := range map[string]string{
		"0xFF": "\xff", "half a character": "hell\xc3", "continuation byte": "\x80", "surrogate": "\xed\xa0\x80",
		"two bytes for a slash": "\xc0\xaf", "four bytes for a slash": "\xf0\x80\x80\xaf", "beyond Unicode": "\xf4\x90\x80\x80",
		"0xFF after 30,000 bytes": x(30_000) + "\xff",
	} {
		all = append(all,
			attack{name: name, send: masked(final|textual, text), code: wrongText},
			attack{name: name + " between fragments", send: frames(
				masked(textual, "x"), masked(continuation, text), masked(final|continuation, "x")), code: wrongText})
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999} {
		all = append(all, attack{name: fmt.Sprint("close with code ", code), send: closeFrame(code, ""), code: protocolError})
	}
	for _, code := range []int{5000, 65535} {
		all = append(all, attack{name: fmt.Sprint("close with code ", code), send: closeFrame(code, ""), code: protocolError,
			except: map[string]int{"gobwas": code}})
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		all = append(all, attack{name: fmt.Sprint("close with code ", code), send: closeFrame(code, "bye"), code: code})
	}
	all = append(all, attack{name: "close without a code", send: masked(final|closing, ""), code: 1005})
	for name, opcode := range map[string]byte{"text": textual, "ping": ping, "close": closing} {
		all = append(all,
			attack{name: "unmasked " + name, send: []byte{final | opcode, 0}, code: protocolError},
			attack{name: "unmasked " + name + " with a payload", send: []byte{final | opcode, 2, 0x03, 0xE8}, code: protocolError})
	}
	beginning, end := masked(textual, x(200)), masked(final|continuation, "x")
	for _, n := range []int{1, 2, 3, 7, 100} {
		all = append(all, attack{name: fmt.Sprintf("cut after %d bytes", n), send: beginning[:n]})
	}
	for n := range len(end) {
		all = append(all, attack{name: fmt.Sprintf("cut after a fragment and %d bytes", n), send: frames(beginning, end[:n])})
	}
	slices.SortFunc(all, func(a, b attack) int { return strings.Compare(a.name, b.name) })
	return all
}

// A client gets the right answer to whatever it sends, and another client gets its messages, and no
// others.
func TestAttacks(t *testing.T) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) {
			s := serve(t, l)
			w := s.witness()
			for i, a := range attacks() {
				t.Run(a.name, func(t *testing.T) {
					c := dialAttacker(t, s.url+fmt.Sprint(i))
					defer c.Close()
					_, _ = c.Write(a.send) // fails if the server closes before the end
					code := 0
					if a.code == 0 {
						c.closeWrite()
						c.closeCode()
					} else {
						code = c.closeCode()
					}
					require.Equal(t, a.codeOf(name), code)
					require.Equal(t, a.heard, w.heard(t))
				})
			}
		})
	}
}

// Frames that come with the handshake are served, or there is no handshake.
func TestEarlyFrames(t *testing.T) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) {
			s := serve(t, l)
			w := s.witness()
			url, err := url.Parse(s.url + "a")
			require.NoError(t, err)
			conn, err := net.Dial("tcp", url.Host)
			require.NoError(t, err)
			defer conn.Close()
			early := frames(masked(final|textual, "hello"), masked(final|textual, "\xff"))
			a, status := shakeHands(t, conn, url, "", string(early))
			if strings.HasPrefix(name, "gorilla") {
				require.Zero(t, status)
				require.Empty(t, w.heard(t))
				return
			}
			require.Equal(t, http.StatusSwitchingProtocols, status)
			require.Equal(t, 1007, a.closeCode())
			require.Equal(t, []string{"hello"}, w.heard(t))
		})
	}
}

// A page of another host gets no WebSocket.
func TestOrigin(t *testing.T) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) {
			s := serve(t, l)
			url, err := url.Parse(s.url)
			require.NoError(t, err)
			for origin, want := range map[string]int{
				"Origin: http://" + url.Host + "\r\n": http.StatusSwitchingProtocols,
				"":                                    http.StatusSwitchingProtocols,
				"Origin: http://evil.example\r\n":     http.StatusForbidden,
				"Origin: http://" + url.Host + ".example\r\n": http.StatusForbidden,
				"Origin: null\r\n":                            http.StatusForbidden,
				"Origin: http://%zz\r\n":                      http.StatusForbidden,
			} {
				conn, err := net.Dial("tcp", url.Host)
				require.NoError(t, err)
				defer conn.Close()
				_, status := shakeHands(t, conn, url, origin, "")
				require.Equal(t, want, status, origin)
			}
		})
	}
}

// FuzzFrames sends bytes after the handshake. Another client is untouched.
func FuzzFrames(f *testing.F) {
	for i, a := range attacks() {
		f.Add(i, a.send)
	}
	names := slices.Sorted(maps.Keys(libraries))
	var servers []*server
	var witnesses []*witness
	for _, name := range names {
		s := serve(f, libraries[name])
		servers = append(servers, s)
		witnesses = append(witnesses, s.witness())
	}
	clients := 0
	f.Fuzz(func(t *testing.T, i int, p []byte) {
		i = int(uint(i) % uint(len(servers)))
		clients++
		c := dialAttacker(t, servers[i].url+fmt.Sprint(clients))
		defer c.Close()
		_, _ = c.Write(p)
		c.closeWrite()
		c.closeCode()
		witnesses[i].heard(t)
	})
}
