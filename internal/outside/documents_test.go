package outside

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testDocuments compiles the Go code in all documents.
func (w *world) testDocuments(t *testing.T) {
	dir := w.newModule(t)
	w.run(t, dir, "get", own, own+"/natsrelay", own+"/promsendq")
	prelude, err := os.ReadFile("testdata/prelude.go")
	require.NoError(t, err)
	for _, document := range w.documents(t) {
		t.Run(document, func(t *testing.T) {
			for _, b := range w.blocks(t, document) {
				pkg := "./" + path.Join(document, fmt.Sprint(b.line))
				writeFile(t, filepath.Join(dir, pkg, "main.go"), b.source(string(prelude)))
				output, err := w.command(dir, "go", "build", "-gcflags=-e", "-o", os.DevNull, pkg).CombinedOutput()
				if !b.isProgram() {
					output = unused.ReplaceAll(output, nil)
				}
				if err != nil && len(output) > 0 {
					assert.Fail(t, "does not compile", "%s:%d:\n%s\n%s", document, b.line, b.code, output)
				}
			}
		})
	}
}

// documents returns the documents of the repository, except the READMEs of recipes. TestReadme of
// package docs compares the code in these with the files that testRecipes compiles.
func (w *world) documents(t *testing.T) (documents []string) {
	for _, name := range w.files {
		if path.Ext(name) == ".md" && !(slices.Contains(recipes, path.Dir(name)) && path.Base(name) == "README.md") {
			documents = append(documents, name)
		}
	}
	require.Contains(t, documents, "README.md")
	return documents
}

// A block is Go code in a document.
type block struct {
	document string
	line     int // the number of its first line
	code     string
}

var codeBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```")

func (w *world) blocks(t *testing.T, document string) (blocks []block) {
	text := w.read(t, document)
	for _, at := range codeBlock.FindAllStringSubmatchIndex(text, -1) {
		line := strings.Count(text[:at[2]], "\n") + 1
		blocks = append(blocks, block{document, line, text[at[2]:at[3]]})
	}
	return blocks
}

// isProgram reports whether the block is a whole file. Otherwise it is a fragment: declarations, or
// statements.
func (b *block) isProgram() bool { return strings.HasPrefix(b.code, "package ") }

var ellipsis = regexp.MustCompile(`(?m)^\s*\.\.\.$`)

// source returns a file with the code. The compiler reports errors in lines of the document.
func (b *block) source(prelude string) string {
	code := fmt.Sprintf("//line %s:%d\n%s", b.document, b.line, b.code)
	if b.isProgram() {
		return code
	}
	code = ellipsis.ReplaceAllString(code, "")
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+code, 0); err != nil {
		code = "func _() {\n" + code + "}\n"
	}
	return prelude + code
}

// unused matches what is no error in a fragment, because the code that uses a name may be left out.
var unused = regexp.MustCompile(`(?m)^(# .*|.*: declared and not used: .*|.* imported and not used)\n`)
