package outside

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const own = "github.com/sendq-go/sendq"

// published has the folders of the modules that are released: those to import, and those with a
// command to install. In the other modules are only tests, measurements and recipes.
var published = []string{"", "natsrelay", "promsendq", "examples/webchat", "examples/clusterchat"}

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
	w.env = append(os.Environ(),
		"GOPROXY="+fileURL(proxy)+","+fileURL(filepath.Join(cache, "cache", "download"))+","+goEnv(t, "GOPROXY"),
		"GOPRIVATE=", "GOSUMDB=off", // a checksum database does not know our versions
		"GOMODCACHE="+filepath.Join(dir, "mod"),
		"GOFLAGS=-modcacherw -trimpath", // without paths, the build cache serves every GOMODCACHE
		"GOWORK=off",
		"GOBIN="+w.bin,
	)
	w.requireThirdParty(t)
	return w
}

// copyTree copies the working tree as it is now: the files in Git, and those that could be added.
func copyTree(t *testing.T) (tree string, files []string) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("needs a clone of the repository: git: %v", err)
	}
	tree = t.TempDir()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, but not committed yet
		}
		require.NoError(t, err)
		text, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		writeFile(t, filepath.Join(tree, name), string(text))
		require.NoError(t, os.Chmod(filepath.Join(tree, name), info.Mode()))
		files = append(files, name)
	}
	return tree, files
}

// version returns the version of sendq that natsrelay requires.
func (w *world) version(t *testing.T) string {
	for _, r := range w.goMod(t, "natsrelay").Require {
		if r.Mod.Path == own {
			return r.Mod.Version
		}
	}
	require.Fail(t, "natsrelay does not require "+own)
	return ""
}

func (w *world) goMod(t *testing.T, folder string) *modfile.File {
	name := path.Join(folder, "go.mod")
	file, err := modfile.Parse(name, []byte(w.read(t, name)), nil)
	require.NoError(t, err)
	return file
}

// read returns the text of a file of the working tree.
func (w *world) read(t *testing.T, name string) string {
	text, err := os.ReadFile(filepath.Join(w.tree, name))
	require.NoError(t, err)
	return string(text)
}

// publish adds a module to a proxy.
func (w *world) publish(t *testing.T, proxy, folder, version string) {
	file := w.goMod(t, folder)
	if len(file.Replace) > 0 {
		require.Fail(t, "a replacement does not count for users, and go install refuses it", "%s/go.mod", folder)
	}
	for _, r := range file.Require {
		if strings.HasPrefix(r.Mod.Path, own) {
			require.Equal(t, version, r.Mod.Version, "%s/go.mod: %s", folder, r.Mod.Path)
		}
	}
	m := module.Version{Path: path.Join(own, folder), Version: version}
	require.Equal(t, m.Path, file.Module.Mod.Path)
	dir := filepath.Join(proxy, filepath.FromSlash(m.Path), "@v")
	writeFile(t, filepath.Join(dir, "list"), version+"\n")
	writeFile(t, filepath.Join(dir, version+".info"), fmt.Sprintf(`{"Version": %q}`, version))
	writeFile(t, filepath.Join(dir, version+".mod"), string(modfile.Format(file.Syntax)))
	archive, err := os.Create(filepath.Join(dir, version+".zip"))
	require.NoError(t, err)
	require.NoError(t, zip.CreateFromDir(archive, m, filepath.Join(w.tree, folder)))
	require.NoError(t, archive.Close())
}

// requireThirdParty skips the test if there is no module that a published one requires.
func (w *world) requireThirdParty(t *testing.T) {
	download := []string{"mod", "download"}
	for _, folder := range []string{"", "natsrelay", "promsendq", "examples/clusterchat"} {
		for _, r := range w.goMod(t, folder).Require {
			if !r.Indirect && !strings.HasPrefix(r.Mod.Path, own) {
				download = append(download, r.Mod.String())
			}
		}
	}
	if output, err := w.command(t.TempDir(), "go", download...).CombinedOutput(); err != nil {
		t.Skipf("the go command cannot reach the modules of others: %v\n%s", err, output)
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
