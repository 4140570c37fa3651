/*
Package websocket shows how a server sends to WebSockets with sendq. It has a handler for each of
three libraries. The handlers register their connections in a Broker. README.md explains them.
*/
package websocket
