// Command chat is a chat server, and a client for it, built on sendq.
//
//	go run ./examples/chat                               # serves on 127.0.0.1:8080
//	go run ./examples/chat -resume -replay 20            # the same, for users who come back
//	go run ./examples/chat -connect 127.0.0.1:8080 -name carol
//	go run ./examples/chat -tls-self-signed              # serves over TLS, to try it
//	go run ./examples/chat -connect 127.0.0.1:8080 -name carol -tls-insecure
//
// Any program can be a client if it sends lines, such as nc 127.0.0.1 8080. The first line is the
// login. With -resume, the client comes back by itself after a broken connection, and shows each line
// once.
//
// To learn how a Writer and a Broker work together, read package core: the whole protocol in one
// file of 200 lines. Package server puts armour on it, and is the server of this command.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"os"

	"github.com/sendq-go/sendq/examples/chat/server"
)

func main() {
	var o server.Options
	o.AddFlags(flag.CommandLine)
	connect := flag.String("connect", "", "be a client of the server at this `address`")
	name := flag.String("name", "", "log in as this `user`, with -connect")
	overTLS := flag.Bool("tls", false, "speak TLS with the server, with -connect")
	insecure := flag.Bool("tls-insecure", false, "like -tls, but accept any certificate of the server, as with -tls-self-signed")
	flag.Parse()
	var config *tls.Config
	if *overTLS || *insecure {
		config = &tls.Config{InsecureSkipVerify: *insecure}
	}

	var err error
	switch {
	case flag.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q; -help lists the flags", flag.Arg(0))
	case *connect != "" && *name == "":
		err = fmt.Errorf("-connect needs a login too: -name carol")
	case *connect != "":
		err = runClient(*connect, config, *name, os.Stdin, os.Stdout, o.Linger)
	case *name != "" || config != nil:
		err = fmt.Errorf("-name, -tls and -tls-insecure go with -connect ADDR")
	default:
		err = server.Run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}
