package outside

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// testInstall installs each command for users, and runs it.
func (w *world) testInstall(t *testing.T) {
	for _, name := range []string{"chat", "webchat", "clusterchat", "sse"} {
		t.Run(name, func(t *testing.T) {
			w.install(t, name)
			help, err := exec.Command(filepath.Join(w.bin, name), "-help").CombinedOutput()
			require.NoError(t, err, "%s", help)
			require.Contains(t, string(help), "-addr")
		})
	}
}

func (w *world) install(t *testing.T, name string) {
	w.run(t, t.TempDir(), "install", own+"/examples/"+name+"@latest")
}
