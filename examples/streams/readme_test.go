package streams_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The code in README.md is the code of this package. Indentation may differ.
func TestReadme(t *testing.T) {
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range files {
		p, err := os.ReadFile(name)
		require.NoError(t, err)
		source.Write(p)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)\n```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		require.Contains(t, unindented(source.String()), unindented(b[1]))
	}
}

var indentation = regexp.MustCompile(`(?m)^\s+`)

func unindented(code string) string { return indentation.ReplaceAllString(code, "") }
