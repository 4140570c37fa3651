package outside

import (
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// recipes are the folders with files to copy, for libraries of others.
var recipes = []string{"examples/websocket", "examples/streams"}

// testRecipes copies the recipes into an empty module and compiles them there.
func (w *world) testRecipes(t *testing.T) {
	for _, folder := range recipes {
		t.Run(path.Base(folder), func(t *testing.T) { w.testRecipe(t, folder) })
	}
}

func (w *world) testRecipe(t *testing.T, folder string) {
	dir := w.newModule(t)
	get := []string{"get"}
	for _, r := range w.goMod(t, folder).Require {
		if !r.Indirect {
			get = append(get, r.Path+"@"+r.Version)
		}
	}
	w.run(t, dir, get...)
	for _, name := range w.files {
		if path.Dir(name) == folder && path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") {
			writeFile(t, filepath.Join(dir, path.Base(name)), w.read(t, name))
		}
	}
	w.run(t, dir, "build", ".")
}
