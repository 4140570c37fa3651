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

// The documents name tests that exist.
func TestDocsNameTests(t *testing.T) {
	var tests []string
	for _, file := range files(t, "_test.go") {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for function := range strings.SplitSeq(string(text), "\nfunc ") { // faster than a regexp
			name, _, _ := strings.Cut(function, "(")
			tests = append(tests, name)
		}
	}
	for _, document := range append(files(t, ".md"), files(t, "doc.go")...) {
		for _, name := range find(t, document, `\b((?:Test|Fuzz)[A-Z]\w*)`) {
			require.True(t, slices.ContainsFunc(tests, func(test string) bool { return strings.HasPrefix(test, name) }), "%s names %s", document, name)
		}
	}
}

// The documents refer to files and headings that exist.
func TestDocsLinks(t *testing.T) {
	for _, document := range files(t, ".md") {
		links := append(find(t, document, `\]\(([^):]+)\)`), find(t, document, `(?:src|srcset|href)="([^":]+)"`)...)
		for _, link := range links {
			file, heading, hasHeading := strings.Cut(link, "#")
			if file = filepath.Join(filepath.Dir(document), file); strings.HasPrefix(link, "#") {
				file = document
			}
			_, err := os.Stat(file)
			require.NoError(t, err, document)
			if hasHeading {
				require.Contains(t, anchors(t, file), heading, "%s refers to %s", document, link)
			}
		}
	}
}

// anchors returns what GitHub makes of the headings of a document.
func anchors(t *testing.T, document string) (anchors []string) {
	for _, heading := range find(t, document, `(?m)^#+ (.*)$`) {
		heading = regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(heading), "")
		anchors = append(anchors, strings.ReplaceAll(heading, " ", "-"))
	}
	return anchors
}

// files returns the files of the repository whose names end with a suffix.
func files(t *testing.T, suffix string) (files []string) {
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, suffix) {
			files = append(files, path)
		}
		return err
	}))
	return files
}

// The map in DESIGN.md has each source file of this package and each folder, and nothing else.
func TestDesignHasAMap(t *testing.T) {
	var want []string
	for _, pattern := range []string{"*", "internal/*"} {
		matches, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, path := range matches {
			info, err := os.Stat(path)
			require.NoError(t, err)
			switch {
			case path[0] == '.' || path == "internal" || strings.HasSuffix(path, "_test.go"):
			case info.IsDir():
				want = append(want, filepath.ToSlash(path)+"/")
			case strings.HasSuffix(path, ".go"):
				want = append(want, path)
			}
		}
	}
	var mapped []string
	for _, pattern := range find(t, "DESIGN.md", "`([\\w*]+\\.go|(?:\\w+/)+)`") {
		matches, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, matches, pattern)
		mapped = append(mapped, matches...)
	}
	slices.Sort(mapped)
	require.ElementsMatch(t, want, slices.Compact(mapped))
}

// The documents about the inside name code that exists, also in their diagrams.
func TestDesignNamesCode(t *testing.T) {
	names := declared(t, ".", "relay", "internal/queue", "internal/sock", "internal/set", "internal/directory", "natsrelay")
	for _, document := range []string{"DESIGN.md", "docs/cluster.md"} {
		named := find(t, document, "`(\\w+(?:\\.\\w+)?)(?:\\(\\))?`")
		for _, line := range find(t, document, `(?m)^    (.*)$`) { // a diagram has plain words, too
			named = append(named, regexp.MustCompile(`\b\w+\.\w+|\b[A-Za-z][a-z]+[A-Z]\w+`).FindAllString(line, -1)...)
		}
		for _, name := range named {
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
