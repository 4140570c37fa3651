package outside

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRelease makes a prerelease and a release with ci/release in a repository of its own, and
// installs the release from there.
func TestRelease(t *testing.T) {
	r := newRepository(t)
	for _, version := range []string{"", "1.0.0", "v1.0", "v1.0.0.0", "v01.0.0", "v2.0.0", "v1.0.0 v1.0.1"} {
		r.requireRefused(t, version, "want one version")
	}
	writeFile(t, filepath.Join(r.tree, "new.txt"), "")
	r.requireRefused(t, "v1.0.0", "not clean")
	require.NoError(t, os.Remove(filepath.Join(r.tree, "new.txt")))
	r.git(t, "switch", "--quiet", "--create", "topic")
	r.requireRefused(t, "v1.0.0", "not on main")
	r.git(t, "switch", "--quiet", "main")
	r.git(t, "tag", "natsrelay/v1.0.0")
	r.requireRefused(t, "v1.0.0", "not above v1.0.0")
	r.git(t, "tag", "--delete", "natsrelay/v1.0.0")

	r.change(t)
	r.requireReleased(t, "v1.0.0-rc.9")
	for _, version := range []string{"v0.0.3", "v1.0.0-beta.10", "v1.0.0-rc.8", "v1.0.0-rc.9"} {
		r.requireRefused(t, version, "not above v1.0.0-rc.9")
	}
	r.requireReleased(t, "v1.0.0")
	r.requireRefused(t, "v1.0.0-rc.10", "not above v1.0.0")
	r.requireRefused(t, "v1.0.1", "nothing under Unreleased")

	r.install(t, "clusterchat")
	command := filepath.Join(r.bin, "clusterchat")
	versions := r.run(t, r.tree, "version", "-m", command)
	for _, module := range []string{own, own + "/natsrelay", own + "/examples/clusterchat"} {
		require.Regexp(t, regexp.QuoteMeta(module)+`\tv1\.0\.0\t`, versions)
	}
}

// A failed check leaves nothing behind. TestOutside fails, rather than skips, if something is
// missing.
func TestReleaseFailsAtACheck(t *testing.T) {
	r := newRepository(t)
	writeFile(t, filepath.Join(r.tree, "internal/outside/outside_test.go"), `package outside

import (
	"os"
	"testing"
)

func TestOutside(t *testing.T) {
	if os.Getenv("SENDQ_CI") != "" {
		t.Fatal("it does not work")
	}
}
`)
	r.change(t)
	r.requireRefused(t, "v1.0.0", "it does not work")
	require.Empty(t, r.git(t, "tag"))
}

// A failed tag leaves neither a commit nor other tags behind, so the next try succeeds.
func TestReleaseFailsAtATag(t *testing.T) {
	r := newRepository(t)
	r.change(t)
	r.git(t, "tag", "natsrelay/v1.0.0/x") // Git cannot have a natsrelay/v1.0.0 beside it
	r.requireRefused(t, "v1.0.0", "natsrelay/v1.0.0")
	require.Equal(t, "natsrelay/v1.0.0/x\n", r.git(t, "tag"))
	r.git(t, "tag", "--delete", "natsrelay/v1.0.0/x")
	r.requireReleased(t, "v1.0.0")
}

// A repository has a copy of the working tree. In its world, it is the one on GitHub.
type repository struct{ *world }

func newRepository(t *testing.T) repository {
	if runtime.GOOS == "windows" {
		t.Skip("ci/release is for maintainers on Unix")
	}
	r := repository{newWorld(t)}
	r.env = append(r.env,
		"GONOPROXY="+own,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url."+r.tree+".insteadOf", "GIT_CONFIG_VALUE_0=https://"+own,
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com",
		"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com",
	)
	// ci/release runs TestOutside, which would take long, so there is none.
	writeFile(t, filepath.Join(r.tree, "internal/outside/outside_test.go"), "package outside\n")
	r.git(t, "init", "--quiet", "--initial-branch", "main")
	r.commit(t)
	return r
}

func (r repository) git(t *testing.T, args ...string) string {
	output, err := r.command(r.tree, "git", args...).CombinedOutput()
	require.NoError(t, err, "git %q: %s", args, output)
	return string(output)
}

func (r repository) commit(t *testing.T) {
	r.git(t, "add", "--all")
	r.git(t, "commit", "--quiet", "--message", "Change something")
}

// change commits a change with an entry in CHANGELOG.md.
func (r repository) change(t *testing.T) {
	text := strings.Replace(r.read(t, "CHANGELOG.md"), "## Unreleased\n", "## Unreleased\n\n- A change.\n", 1)
	writeFile(t, filepath.Join(r.tree, "CHANGELOG.md"), text)
	r.commit(t)
}

// release runs ci/release as a maintainer: in a clone, with go.work.
func (r repository) release(version string) (output string, err error) {
	c := exec.Command("ci/release", strings.Fields(version)...)
	c.Dir, c.Env = r.tree, append(slices.Clone(r.env), "GOWORK=", "GOMODCACHE=", "GOPROXY=", "SENDQ_CI=")
	text, err := c.CombinedOutput()
	return string(text), err
}

// requireRefused requires that ci/release fails and changes no file and no commit.
func (r repository) requireRefused(t *testing.T, version, why string) {
	t.Helper()
	before := r.git(t, "rev-parse", "HEAD") + r.git(t, "status", "--porcelain")
	output, err := r.release(version)
	require.Error(t, err, "%s", output)
	require.Contains(t, output, why)
	require.Equal(t, before, r.git(t, "rev-parse", "HEAD")+r.git(t, "status", "--porcelain"))
}

// requireReleased makes a release. It has the version in every go.mod file, all tags, and, unless it
// is a prerelease, a date.
func (r repository) requireReleased(t *testing.T, version string) {
	t.Helper()
	output, err := r.release(version)
	require.NoError(t, err, "%s", output)
	require.Empty(t, r.git(t, "status", "--porcelain"))
	require.Equal(t, "Release "+version+"\n", r.git(t, "log", "-1", "--format=%s"))
	heading := `^# Changelog\n\n## Unreleased\n\n`
	if !strings.Contains(version, "-") {
		heading += `## ` + regexp.QuoteMeta(version) + ` - \d{4}-\d\d-\d\d\n\n`
	}
	require.Regexp(t, heading+`- A change\.\n`, r.read(t, "CHANGELOG.md"))
	for mod := range strings.FieldsSeq(r.git(t, "ls-files", "*go.mod")) {
		for _, required := range regexp.MustCompile(own+`\S* (v\S+)`).FindAllStringSubmatch(r.read(t, mod), -1) {
			require.Equal(t, version, required[1], mod)
		}
	}
	var tags []string
	for _, folder := range published {
		tags = append(tags, strings.TrimPrefix(folder+"/"+version, "/"))
	}
	require.ElementsMatch(t, tags, strings.Fields(r.git(t, "tag", "--points-at", "HEAD")))
	require.Contains(t, output, "git push --atomic origin HEAD "+strings.Join(tags, " ")+"\n")
}
