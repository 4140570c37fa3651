// Package ci tests the scripts of this folder and the settings of Dependabot.
package ci

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// run runs a script in a folder outside of the repository, and returns its output and exit code.
func run(t *testing.T, env, script string, args ...string) (output string, code int) {
	if runtime.GOOS == "windows" {
		t.Skip("cannot execute a script")
	}
	path, err := filepath.Abs(script)
	require.NoError(t, err)
	command := exec.Command(path, args...)
	command.Dir, command.Env = t.TempDir(), append(os.Environ(), env)
	text, err := command.CombinedOutput()
	if err != nil {
		require.IsType(t, new(exec.ExitError), err)
	}
	return string(text), command.ProcessState.ExitCode()
}

// A script refuses arguments that it does not know, and explains itself.
func TestScriptsRefuseArguments(t *testing.T) {
	scripts, err := filepath.Glob("*")
	require.NoError(t, err)
	for _, script := range scripts {
		switch {
		case filepath.Ext(script) != "": // no script
		case script == "test": // go test refuses
		case script == "release": // has a test in internal/outside
		default:
			for _, args := range [][]string{{"-nosuch"}, {"1s", "2s", "3s"}} {
				output, code := run(t, "", script, args...)
				require.Equal(t, 2, code, "%s %q: %s", script, args, output)
				text, err := os.ReadFile(script)
				require.NoError(t, err)
				require.Contains(t, string(text), "\n# "+output[:min(len(output), 20)])
			}
		}
	}
}

// A script that needs Git fails without it.
func TestScriptsNeedGit(t *testing.T) {
	for _, script := range []string{"fuzz", "tidy"} {
		output, code := run(t, "GIT_DIR=nosuch", script)
		require.NotZero(t, code, "%s: %s", script, output)
	}
}

// Dependabot watches all modules.
func TestDependabot(t *testing.T) {
	var modules []string
	require.NoError(t, filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == "go.mod" {
			modules = append(modules, filepath.ToSlash(filepath.Dir(path))[len(".."):])
		}
		return err
	}))
	modules[slices.Index(modules, "")] = "/"
	settings, err := os.ReadFile("../.github/dependabot.yml")
	require.NoError(t, err)
	var watched []string
	for _, match := range regexp.MustCompile(`(?m)^      - (/.*)$`).FindAllSubmatch(settings, -1) {
		watched = append(watched, string(match[1]))
	}
	require.ElementsMatch(t, modules, watched)
}
