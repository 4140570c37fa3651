// Package missing skips tests on machines that lack something.
package missing

import (
	"fmt"
	"os"
	"testing"
)

// Skip skips a test because the machine lacks what the arguments describe. If the environment has
// SENDQ_CI, it fails the test instead, so that CI runs all tests.
func Skip(t testing.TB, what ...any) {
	t.Helper()
	why := "missing: " + fmt.Sprint(what...)
	if os.Getenv("SENDQ_CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
