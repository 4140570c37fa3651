package sendqtest_test

import (
	"bufio"
	"errors"
	"fmt"
	"syscall"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The peer takes the first message and a part of the second. Then its machine fails.
func ExampleConn_FailAfter() {
	conn := sendqtest.NewConn()
	conn.FailAfter(len("one\n")+2, syscall.ECONNRESET)
	w := sendq.NewWriter(conn, nil)
	w.WriteString("one\n")
	w.WriteString("two\n")

	err := w.Close()
	fmt.Println(errors.Is(err, syscall.ECONNRESET))
	lines, rest := sendqtest.Messages(conn.Bytes(), bufio.ScanLines)
	fmt.Printf("%q %q\n", lines, rest)
	for message := range w.Undelivered() {
		fmt.Printf("undelivered: %q\n", message)
	}
	// Output:
	// true
	// ["one"] "tw"
	// undelivered: "two\n"
}

// Messages of a protocol with two bytes of length.
func ExampleLengthPrefix() {
	conn := sendqtest.NewConn()
	w := sendq.NewWriter(conn, nil)
	w.WriteString("\x00\x05hello")
	w.WriteString("\x00\x03bob")
	w.Close()
	messages, rest := sendqtest.Messages(conn.Bytes(), sendqtest.LengthPrefix(2))
	fmt.Printf("%q %q\n", messages, rest)
	// Output: ["hello" "bob"] ""
}
