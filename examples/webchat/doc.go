// Command webchat is the chat of examples/chat for browsers. All users share names and rooms, whether
// they use the page, over a WebSocket, or send lines over TCP.
//
//	go run ./examples/webchat          # page at http://127.0.0.1:8080/, lines at 127.0.0.1:8081
//	go run ./examples/webchat -demo    # the same, and /stall 30 makes one a slow reader for 30 s
//	go run ./examples/webchat -resume  # users come back after a broken connection, and miss nothing
//
// http://127.0.0.1:8080/status shows the queues and their owners.
//
// # How the parts fit
//
// The server is package examples/chat/server, and knows nothing of WebSockets. Its option Frame turns
// each line into a frame, and the Broker sends the frame to everyone. A message to a thousand browsers
// is framed once and copied once, and a room keeps its last lines as frames.
//
// Users differ in the net.Conn beneath their Writer:
//
//   - A browser writes frames unchanged. Its Read turns incoming frames into lines, within the
//     reader's buffer. Frames may be cut and fragmented anywhere. A browser has no buffer of its own, so
//     when idle it costs little more than an idle TCP user.
//   - A terminal belongs to a TCP user. It removes the headers of frames. It writes a copy, because all
//     users share the same bytes.
//
// Both have a method NetConn. With it, the Writer finds the socket and waits for the peer's
// acknowledgement before it closes.
//
// Pings and pongs are no lines. They do not go through the Writer, because it counts messages, and with
// -resume the page counts lines. A framedConn sends them between two frames of the Writer. One frame
// must come after the whole queue: the close frame. When the queue is empty, the Writer's
// Close calls the browser's CloseWrite, and CloseWrite sends the close frame. Its code comes
// from the cause of the session's end, or from the first rule that the browser broke. If a Writer ends without delivering, as
// a slow consumer or after a takeover, there is no close frame, because it could be in the middle of
// another frame.
//
// # How the page comes back
//
// The page connects again by itself, after growing pauses, and at once when the browser is online again
// or the user looks at the page. With -resume, page/link.js counts the lines of each connection, and the
// server sends what has not arrived: the page shows each line once. Without -resume, the page joins the
// same rooms again, and says that messages may be missing.
//
// A dead connection may look like a quiet one. After 60 s without a line, or 10 s after a line of the user,
// the page asks /who. It gives up the connection if no answer comes in 10 s.
//
// Without a connection, messages of the user wait on the page. They are sent later, at most once. An
// answer to a later /who confirms a message. If the connection breaks first, the page says that the
// message was perhaps not delivered. On a reload, the storage of the tab keeps the log, the key and the
// count.
//
// # No compression
//
// Nothing is compressed. A frame for all users would have to be compressed without the frames before
// it: permessage-deflate turns a line of 45 bytes into 51, and a line of 255 bytes into 166. It takes
// 11 to 20 µs, and framing takes less than 0.5 µs (BenchmarkDeflate).
package main
