/*
Package websocket shows how a server of WebSockets sends with sendq: for each of three libraries, a
handler that registers its connections in a Broker. README.md tells why it is written so.
*/
package websocket
