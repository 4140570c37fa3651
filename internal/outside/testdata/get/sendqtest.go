package main

import (
	"fmt"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func main() {
	conn := sendqtest.NewConn()
	w := sendq.NewWriter(conn, nil)
	w.WriteString("hello\n")
	w.Close()
	fmt.Printf("%s", conn.Bytes())
}
