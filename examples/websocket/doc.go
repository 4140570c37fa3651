/*
Package websocket shows how a server of WebSockets sends with sendq: for each of three libraries, a
handler that registers its connections in a Broker. A file is all there is to copy for its library.
README.md tells why it is written so.
*/
package websocket
