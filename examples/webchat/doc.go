// Command webchat is the chat of examples/chat for browsers: one server, whose users share
// names and rooms whether they come by the page, over a WebSocket, or with lines over TCP.
//
//	go run ./examples/webchat          # page at http://127.0.0.1:8080/, lines at 127.0.0.1:8081
//	go run ./examples/webchat -demo    # the same, and /stall 30 makes one a slow reader for 30 s
//
// http://127.0.0.1:8080/status shows what is queued, and for whom.
//
// # How the parts fit
//
// The server is that of examples/chat, and knows nothing of WebSockets. It makes of each line
// one frame, by its option Frame, and that is what goes through the Broker: a message to a
// thousand browsers is framed once and copied once, and a room's last lines are kept as frames.
//
// What differs between users is the net.Conn beneath their Writer:
//
//   - A browser passes frames through when it is written to. Its Read turns the frames that
//     come, cut and fragmented as they may be, into lines, where they stand in the reader's
//     buffer. It keeps none itself, so that an idle browser costs little more than an idle TCP user.
//   - A terminal, of a TCP user, takes the headers of frames away again, and pings altogether.
//     It writes a copy, for all others have the same bytes.
//
// Both have a method NetConn, by which the Writer finds the socket, and waits until the peer has
// acknowledged everything before it closes.
//
// Only the Writer writes, so no two frames can mix: pongs and pings are messages like all others.
// The one frame that must be the last, behind all that is queued, is the close frame: it is
// sent by CloseWrite of the browser, which the Writer's Close calls when its queue is empty and
// before it closes the connection. What it says is told by the session's end, or by the first
// rule that the browser broke. When a Writer ends without delivering, as with a slow consumer or a
// takeover, there is no close frame, for it could be in the middle of another one.
//
// Nobody is compressed for: a frame for all would have to be compressed without what came
// before. Of a line of 45 bytes permessage-deflate makes 51, of one of 255 bytes 166, and takes
// 11 to 20 µs, where framing takes less than half of one (BenchmarkDeflate).
package main
