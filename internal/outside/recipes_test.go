package outside

import (
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// recipes has files to copy, for WebSocket libraries.
const recipes = "examples/websocket"

// testRecipes copies the recipes into an empty module and compiles them there.
func (w *world) testRecipes(t *testing.T) {
	dir := w.newModule(t)
	get := []string{"get"}
	for _, r := range w.goMod(t, recipes).Require {
		if !r.Indirect {
			get = append(get, r.Path+"@"+r.Version)
		}
	}
	w.run(t, dir, get...)
	for _, name := range w.files {
		if path.Dir(name) == recipes && path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") {
			writeFile(t, filepath.Join(dir, path.Base(name)), w.read(t, name))
		}
	}
	w.run(t, dir, "build", ".")
}
