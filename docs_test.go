package sendq_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The documents name tests that exist, and refer to files that exist.
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
		for _, file := range find(t, document, `\]\(([^):#]+)[#)]`) {
			_, err := os.Stat(filepath.Join(filepath.Dir(document), file))
			require.NoError(t, err, document)
		}
		for _, name := range find(t, document, `\b((?:Test|Fuzz)[A-Z]\w*)`) {
			require.True(t, slices.ContainsFunc(tests, func(test string) bool { return strings.HasPrefix(test, name) }), "%s names %s", document, name)
		}
	}
}

// The map in DESIGN.md has each source file of this package, and no other.
func TestDesignHasAMap(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	files = slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
	var mapped []string
	for _, pattern := range find(t, "DESIGN.md", "`([\\w*]+\\.go)`") {
		matches, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, matches, pattern)
		mapped = append(mapped, matches...)
	}
	slices.Sort(mapped)
	require.Equal(t, files, slices.Compact(mapped))
}

// The documents about the inside name code that exists.
func TestDesignNamesCode(t *testing.T) {
	names := declared(t, ".", "relay", "internal/queue", "internal/sock", "internal/set", "natsrelay")
	for _, document := range []string{"DESIGN.md", "docs/cluster.md"} {
		for _, name := range find(t, document, "`(\\w+(?:\\.\\w+)?)`") {
			switch {
			case strings.HasSuffix(name, ".go"):
			case name == "conn.Write" || name == "runtime.Goexit":
			default:
				require.True(t, names[strings.TrimPrefix(name, "relay.")], "%s names %s", document, name)
			}
		}
	}
}

// declared returns the names declared in some directories. A method or field appears with and
// without its type.
func declared(t *testing.T, dirs ...string) map[string]bool {
	names := make(map[string]bool)
	add := func(of string, idents ...*ast.Ident) {
		for _, name := range idents {
			names[name.Name], names[of+"."+name.Name] = true, true
		}
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			var of string // the type or function around the node
			ast.Inspect(parsed, func(node ast.Node) bool {
				switch node := node.(type) {
				case *ast.TypeSpec:
					of = node.Name.Name
					add("", node.Name)
				case *ast.Field:
					add(of, node.Names...)
				case *ast.ValueSpec:
					add("", node.Names...)
				case *ast.FuncDecl:
					of = receiverOf(node)
					add(of, node.Name)
					return false
				}
				return true
			})
		}
	}
	return names
}

// receiverOf returns the name of a method's type, or "" for a function.
func receiverOf(f *ast.FuncDecl) (name string) {
	if f.Recv == nil {
		return ""
	}
	ast.Inspect(f.Recv.List[0].Type, func(node ast.Node) bool { // *Type, Type[K, V]
		if ident, ok := node.(*ast.Ident); ok && name == "" {
			name = ident.Name
		}
		return name == ""
	})
	return name
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
