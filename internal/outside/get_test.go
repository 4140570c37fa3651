package outside

import (
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// testGet gets each package in an empty module, and runs a program that uses it and says hello.
func (w *world) testGet(t *testing.T) {
	for _, pkg := range []string{own, own + "/relay", own + "/sendqtest", own + "/natsrelay", own + "/promsendq"} {
		t.Run(path.Base(pkg), func(t *testing.T) {
			dir := w.newModule(t)
			w.run(t, dir, "get", pkg)
			program, err := os.ReadFile(filepath.Join("testdata", "get", path.Base(pkg)+".go"))
			require.NoError(t, err)
			writeFile(t, filepath.Join(dir, "main.go"), string(program))
			require.Equal(t, "hello\n", w.run(t, dir, "run", "."))
			require.NotContains(t, w.run(t, dir, "mod", "graph"), "nats-server")
		})
	}
}
