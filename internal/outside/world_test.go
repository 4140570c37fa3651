package outside

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

const own = "github.com/sendq-go/sendq"

// published has the folders of the modules that are released: those to import, and those with a
// command to install. In the other modules are only tests, measurements and recipes.
var published = []string{"", "natsrelay", "promsendq", "examples/webchat", "examples/clusterchat", "examples/sse"}

// A world is a machine that has the go command, but no clone of the repository.
type world struct {
	tree  string   // a copy of the working tree, from which the proxy is made
	files []string // in tree
	bin   string   // the installed commands
	env   []string
}

// newWorld returns a world whose first module proxy has the published modules, in the version that
// their go.mod files require. It skips the test if the others cannot be had.
func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	w := &world{bin: filepath.Join(dir, "bin")}
	w.tree, w.files = copyTree(t)
	proxy := filepath.Join(dir, "proxy")
	version := w.version(t)
	for _, folder := range published {
		w.publish(t, proxy, folder, version)
	}
	cache := goEnv(t, "GOMODCACHE")
	w.env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "GIT_") // a hook of Git has some that lead to this clone
	})
	w.env = append(w.env,
		"GOPROXY="+fileURL(proxy)+","+fileURL(filepath.Join(cache, "cache", "download"))+","+goEnv(t, "GOPROXY"),
		"GOPRIVATE=", "GOSUMDB=off", // a checksum database does not know our versions
		"GOMODCACHE="+filepath.Join(dir, "mod"),
		"GOFLAGS=-modcacherw -trimpath", // without paths, the build cache serves every GOMODCACHE
		"GOWORK=off",
		"GOBIN="+w.bin, "GOARCH=", // go install takes GOBIN only for this machine
	)
	w.requireThirdParty(t)
	return w
}

// copyTree copies the working tree as it is now. It skips the test outside of a clone.
//
// It walks the tree itself, rather than asking Git for its files, so the go command knows what the
// result depends on and does not use an old one.
func copyTree(t *testing.T) (tree string, files []string) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(root, "natsrelay", "go.mod")); err != nil {
		missing.Skip(t, "a clone of the repository: ", err)
	}
	tree = t.TempDir()
	require.NoError(t, filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case entry.IsDir() || entry.Name() == ".git": // a file in a worktree of Git
			return nil
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		files = append(files, filepath.ToSlash(name))
		return copyFile(filepath.Join(tree, name), file)
	}))
	return tree, files
}

func copyFile(to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode())
}

// version returns the version of sendq that natsrelay requires.
func (w *world) version(t *testing.T) string {
	for _, r := range w.goMod(t, "natsrelay").Require {
		if r.Path == own {
			return r.Version
		}
	}
	require.Fail(t, "natsrelay does not require "+own)
	return ""
}

// A goMod has the parts of a go.mod file that the tests need.
type goMod struct {
	Module  struct{ Path string }
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []any
}

func (w *world) goMod(t *testing.T, folder string) (m goMod) {
	text, err := exec.Command("go", "mod", "edit", "-json", filepath.Join(w.tree, folder, "go.mod")).Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &m))
	return m
}

// read returns the text of a file of the working tree.
func (w *world) read(t *testing.T, name string) string {
	text, err := os.ReadFile(filepath.Join(w.tree, name))
	require.NoError(t, err)
	return string(text)
}

// publish adds a module to a proxy.
func (w *world) publish(t *testing.T, proxy, folder, version string) {
	mod := w.goMod(t, folder)
	if len(mod.Replace) > 0 {
		require.Fail(t, "a replacement does not count for users, and go install refuses it", "%s/go.mod", folder)
	}
	for _, r := range mod.Require {
		if strings.HasPrefix(r.Path, own) {
			require.Equal(t, version, r.Version, "%s/go.mod: %s", folder, r.Path)
		}
	}
	require.Equal(t, path.Join(own, folder), mod.Module.Path)
	name := filepath.Join(proxy, filepath.FromSlash(mod.Module.Path), "@v", version)
	writeFile(t, filepath.Join(filepath.Dir(name), "list"), version+"\n")
	writeFile(t, name+".info", fmt.Sprintf(`{"Version": %q}`, version))
	writeFile(t, name+".mod", w.read(t, path.Join(folder, "go.mod")))
	writeFile(t, name+".zip", w.archive(t, folder, mod.Module.Path+"@"+version))
}

// archive returns the module in a folder as an archive, with a prefix for the names of files.
func (w *world) archive(t *testing.T, folder, prefix string) string {
	var archive strings.Builder
	z := zip.NewWriter(&archive)
	for _, name := range w.files {
		if w.module(name) != path.Clean(folder) {
			continue
		}
		file, err := z.Create(path.Join(prefix, strings.TrimPrefix(name, folder)))
		require.NoError(t, err)
		_, err = file.Write([]byte(w.read(t, name)))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return archive.String()
}

// module returns the folder of the module that a file belongs to.
func (w *world) module(name string) string {
	folder := path.Dir(name)
	for folder != "." && !slices.Contains(w.files, path.Join(folder, "go.mod")) {
		folder = path.Dir(folder)
	}
	return folder
}

// requireThirdParty skips the test if there is no module that a published one or a recipe requires.
func (w *world) requireThirdParty(t *testing.T) {
	download := []string{"mod", "download"}
	for _, folder := range append([]string{"", "natsrelay", "promsendq", "examples/clusterchat"}, recipes...) {
		for _, r := range w.goMod(t, folder).Require {
			if !r.Indirect && !strings.HasPrefix(r.Path, own) {
				download = append(download, r.Path+"@"+r.Version)
			}
		}
	}
	if output, err := w.command(t.TempDir(), "go", download...).CombinedOutput(); err != nil {
		missing.Skip(t, "the modules of others: ", err, "\n", string(output))
	}
}

// command returns a command of this world.
func (w *world) command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, w.env
	return c
}

// run runs the go command and returns its output.
func (w *world) run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := w.command(dir, "go", args...)
	output, err := c.CombinedOutput()
	require.NoError(t, err, "%s:\n%s", c, output)
	return string(output)
}

// newModule returns the folder of an empty module.
func (w *world) newModule(t *testing.T) string {
	dir := t.TempDir()
	w.run(t, dir, "mod", "init", "example.com/app")
	return dir
}

func goEnv(t *testing.T, name string) string {
	value, err := exec.Command("go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(value))
}

// fileURL returns the URL of an absolute path, also of one like C:\go.
func fileURL(path string) string {
	return "file:///" + strings.TrimPrefix(filepath.ToSlash(path), "/")
}

func writeFile(t *testing.T, name, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o777))
	require.NoError(t, os.WriteFile(name, []byte(text), 0o666))
}
