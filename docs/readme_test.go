package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The code in a README of recipes is the code of their package. Indentation may differ.
func TestReadme(t *testing.T) {
	for _, recipes := range []string{"../examples/streams", "../examples/websocket"} {
		var source strings.Builder
		files, err := filepath.Glob(filepath.Join(recipes, "*.go"))
		require.NoError(t, err)
		for _, name := range files {
			p, err := os.ReadFile(name)
			require.NoError(t, err)
			source.Write(p)
		}
		readme, err := os.ReadFile(filepath.Join(recipes, "README.md"))
		require.NoError(t, err)
		blocks := 0
		for _, b := range fence.FindAllStringSubmatch(string(readme), -1) {
			if b[1] == "go" {
				found := strings.Contains(unindented(source.String()), unindented(b[2]))
				require.True(t, found, "%s has no code\n%s", recipes, b[2])
				blocks++
			}
		}
		require.NotZero(t, blocks)
	}
}

var indentation = regexp.MustCompile(`(?m)^\s+`)

func unindented(code string) string { return indentation.ReplaceAllString(code, "") }
