// Command bench measures sendq beside its rivals, in one run on one machine, and prints
// Markdown tables.
//
//	go run ./bench           # everything, about 25 minutes
//	go run ./bench -quick    # each section in seconds
//	go run ./bench -only writer,roundtrip
//	go run ./bench -write    # and keep it: RESULTS.md, plots, the tables in README.md
//
// It needs Linux. Redis, Mosquitto and a nats-server of the system are measured if they are
// installed (on Debian: redis-server, mosquitto, nats-server); the others it brings along.
// All servers listen on the loopback interface only, and end with this program.
//
// With -write, README.md gets the tables for which it has a place:
//
//	<!-- bench:fanout -->
//	<!-- /bench -->
//
// The names are writer-TCP-64 and the like, roundtrip, fanout, fanout-1000 and the like, stalled,
// idle-writer, idle, idle-many, relay-direct, relay-fanout, relay-names, and goals.
//
// Start reading at main.go; each section has a file of its own name. The rivals in
// section writer are in writer_senders.go, the servers in services.go, what is spoken with them in
// protocols.go, and the members, who must cost as little as possible, in clients.go and clients_loop.go.
package main
