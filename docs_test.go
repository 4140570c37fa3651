package sendq_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The documents name tests that exist.
func TestDocsNameTests(t *testing.T) {
	var tests, documents []string
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for function := range strings.SplitSeq(string(text), "\nfunc ") { // faster than a regexp
				name, _, _ := strings.Cut(function, "(")
				tests = append(tests, name)
			}
		case strings.HasSuffix(path, ".md") || filepath.Base(path) == "doc.go":
			documents = append(documents, path)
		}
		return nil
	}))
	for _, document := range documents {
		for _, name := range find(t, document, `\b((?:Test|Fuzz)[A-Z]\w*)`) {
			require.True(t, slices.ContainsFunc(tests, func(test string) bool { return strings.HasPrefix(test, name) }), "%s names %s", document, name)
		}
	}
}

// The map in DESIGN.md has each source file of this package.
func TestDesignHasAMap(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	files = slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
	inMap := find(t, "DESIGN.md", "`(\\w+\\.go)`")
	slices.Sort(inMap)
	require.Equal(t, files, slices.Compact(inMap))
}

// find returns what the group of the pattern matches in a file.
func find(t *testing.T, file, pattern string) (found []string) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		found = append(found, match[1])
	}
	return found
}
