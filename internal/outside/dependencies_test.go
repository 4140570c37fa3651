package outside

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDependencies compares docs/dependencies.md with the direct requirements of all modules.
func TestDependencies(t *testing.T) {
	var w world
	w.tree, w.files = copyTree(t)
	var required []string
	for _, name := range w.files {
		if path.Base(name) != "go.mod" {
			continue
		}
		for _, r := range w.goMod(t, filepath.Dir(name)).Require {
			if !r.Indirect && !strings.HasPrefix(r.Path, own) {
				required = append(required, r.Path)
			}
		}
	}
	var listed []string
	for line := range strings.Lines(w.read(t, "docs/dependencies.md")) {
		if row, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(row, "`")
			listed = append(listed, name)
		}
	}
	slices.Sort(required)
	require.ElementsMatch(t, slices.Compact(required), listed)
}
