// Command bench compares sendq with its rivals, in one run on one machine, and prints
// Markdown tables.
//
//	go run ./bench           # everything, about 25 minutes
//	go run ./bench -quick    # a few minutes, less precise
//	go run ./bench -only writer,roundtrip
//	go run ./bench -write    # also update RESULTS.md, the plots and the tables in README.md
//
// It needs Linux. Redis, Mosquitto and the system's nats-server are measured if they are
// installed (on Debian: redis-server, mosquitto, nats-server). The other rivals are built in.
// All servers listen on the loopback interface only and end with this program.
//
// With -write, each pair of markers in README.md is filled with the table of that name, without
// its notes:
//
//	<!-- bench:fanout -->
//	<!-- /bench -->
//
// The names are writer-TCP-64 and the like, roundtrip, fanout, fanout-1000 and the like, stalled,
// idle-writer, idle, idle-many, relay-direct, relay-fanout, relay-names, reconnect, and goals.
//
// Start reading at main.go. The other files are named by what they belong to:
//
//	writer, roundtrip, fanout,                        the sections
//	  stalled, idle, relay, reconnect
//	writer_*, idle_many, idle_members, reconnect_*    parts of the sections writer, idle and reconnect
//	services, protocols, hub, serve, child, process   servers, and how to start and talk to them
//	clients, clients_*                                the load: members and publishers
//	stats, goals, report, results, plot, origin       from measurements to tables and plots
//
// Clients share the machine with the server, so they use as little CPU as possible.
package main
