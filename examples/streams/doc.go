/*
Package streams shows how a server sends to streams that are no net.Conn with sendq. It has a handler
for a stream of gRPC, and one for a channel of SSH. README.md explains them.
*/
package streams
